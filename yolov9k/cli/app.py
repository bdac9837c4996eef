"""The command line: parses, calls the library, prints one line for what a user can mend."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from yolov9k.cli.legacy import published_style
from yolov9k.common.errors import UserError, warn

app = typer.Typer(no_args_is_help=True, add_completion=False, help="YOLOv9: train, validate, predict.", rich_markup_mode="rich")
data_app = typer.Typer(no_args_is_help=True, help="Look at a data set before training on it.")
app.add_typer(data_app, name="data")
console = Console(soft_wrap=True, highlight=False)

Data = Annotated[str, typer.Option(help="data.yaml, or a folder or file of YOLO, COCO or Pascal VOC labels")]
Img = Annotated[int, typer.Option("--img", "--imgsz", "--img-size", help="image size, rounded up to a multiple of 32 pixels")]
Batch = Annotated[int, typer.Option("--batch", "--batch-size", help="images an iteration")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, or a GPU's number")]
Workers = Annotated[int, typer.Option(help="processes that read images; 0 reads in the main process")]
SingleCls = Annotated[bool, typer.Option("--single-cls", help="treat all classes as one")]
Amp = Annotated[str, typer.Option(help="mixed precision: auto, off, fp16, bf16")]
Project = Annotated[str, typer.Option(help="folder of the run directories")]
Name = Annotated[str, typer.Option(help="name of the run directory; a taken one gets a number")]
ExistOk = Annotated[bool, typer.Option("--exist-ok", help="write into an existing run directory")]
Strict = Annotated[bool, typer.Option("--strict", help="refuse data with faulty labels or images")]
Conf = Annotated[float, typer.Option("--conf-thres", "--conf", help="lowest score of a detection")]
Iou = Annotated[float, typer.Option("--iou-thres", "--iou", help="overlap above which the lower-scored box falls")]
MaxDet = Annotated[int, typer.Option("--max-det", help="most detections in an image")]


def _version(wanted: bool) -> None:
    if wanted:
        from yolov9k import __version__

        console.print(__version__)
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    """YOLOv9: train, validate, predict."""


@app.command()
def train(
    context: typer.Context,
    data: Annotated[str | None, typer.Option(help="data.yaml, or a folder or file of YOLO, COCO or VOC labels")] = None,
    cfg: Annotated[str | None, typer.Option(help="model: yolov9-t, -s, -m, -c, -e, gelan-t ... -e, or a YAML file")] = None,
    weights: Annotated[str | None, typer.Option(help="checkpoint to start from")] = None,
    img: Img = 640,
    batch: Annotated[
        str, typer.Option("--batch", "--batch-size", help="images an iteration; auto (or -1): the most that fit in memory")
    ] = "16",
    epochs: Annotated[int, typer.Option(help="passes over the training data")] = 500,
    hyp: Annotated[str | None, typer.Option(help="a YAML, or default, small (a few hundred images), demo")] = None,
    device: Device = "auto",
    workers: Workers = 8,
    project: Project = "runs/train",
    name: Name = "exp",
    exist_ok: ExistOk = False,
    close_mosaic: Annotated[int, typer.Option(help="so many last epochs are without mosaic")] = 15,
    resume: Annotated[
        str | None, typer.Option(help="go on with the latest run, or with a last.pt; of other flags --epochs alone counts")
    ] = None,
    cache: Annotated[str | None, typer.Option(help="keep decoded images in ram (also without a value) or on disk")] = None,
    decode: Annotated[str, typer.Option(help="what fills the cache for training: cpu, or nvjpeg of torchvision")] = "cpu",
    rect: Annotated[bool, typer.Option("--rect", help="rectangular batches, without mosaic")] = False,
    multi_scale: Annotated[bool, typer.Option("--multi-scale", help="vary the image size by half, up and down")] = False,
    single_cls: SingleCls = False,
    freeze: Annotated[str | None, typer.Option(help="freeze the first N layers, or those listed: 0 1 2")] = None,
    patience: Annotated[int, typer.Option(help="stop after so many epochs without better fitness; 0: never")] = 100,
    amp: Amp = "auto",
    mode: Annotated[str, typer.Option(help="training step: auto, eager, captured (CUDA graphs), compiled")] = "auto",
    checkpoint: Annotated[
        bool, typer.Option("--checkpoint", help="keep fewer activations and compute them again: less memory, more time")
    ] = False,
    bad_steps: Annotated[int, typer.Option(help="stop after so many steps in a row that are not finite")] = 10,
    label_smoothing: Annotated[float | None, typer.Option(help="class label smoothing, 0 to 0.999")] = None,
    seed: Annotated[int, typer.Option(help="of weights and augmentation")] = 0,
    strict: Strict = False,
    noval: Annotated[bool, typer.Option("--noval", help="validate after the last epoch alone")] = False,
    noplots: Annotated[bool, typer.Option("--noplots", help="draw no images or curves")] = False,
    min_items: Annotated[int, typer.Option(help="leave out training images with fewer objects")] = 0,
    optimizer: Annotated[str, typer.Option(help="SGD, the paper's, is the one there is")] = "SGD",
    lr_curve: Annotated[str, typer.Option(help="learning rate by epoch: linear, cosine, flat-cosine, constant")] = "linear",
    save_period: Annotated[int, typer.Option(help="also keep the weights of every so many epochs; below 1: not")] = -1,
) -> None:
    """Train a model; everything it leaves is in PROJECT/NAME."""
    from yolov9k.config.train_options import TrainOptions
    from yolov9k.engine.train.trainer import Trainer

    if resume is not None:
        given = [name for name in context.params if str(context.get_parameter_source(name)).endswith("COMMANDLINE")]
        if ignored := [f"--{name.replace('_', '-')}" for name in given if name not in ("resume", "epochs", "project")]:
            warn(f"--resume: the run keeps what it was begun with; without effect: {', '.join(sorted(ignored))}")
        changes = {"epochs": epochs} if "epochs" in given else {}
        Trainer.resume(None if resume == "latest" else resume, project, console, **changes).fit()
        return
    if not data:
        raise UserError("give --data: a data.yaml, or a folder or file of YOLO, COCO or Pascal VOC labels")
    options = TrainOptions(
        data=data, cfg=cfg or None, weights=weights or None, img=img, batch=_batch(batch), epochs=epochs, hyp=hyp or None,
        device=device, workers=workers, project=project, name=name, exist_ok=exist_ok, close_mosaic=close_mosaic, cache=cache,
        decode=decode, rect=rect, multi_scale=multi_scale, single_cls=single_cls,
        freeze=tuple(_numbers(freeze, "--freeze")), patience=patience, amp=amp, mode=mode, checkpoint=checkpoint,
        bad_steps=bad_steps, label_smoothing=label_smoothing, seed=seed, strict=strict, noval=noval, noplots=noplots,
        min_items=min_items, optimizer=optimizer, lr_curve=lr_curve, save_period=save_period,
    )  # fmt: skip
    Trainer(options, console).fit()


@app.command()
def val(
    data: Data,
    weights: Annotated[str, typer.Option(help="checkpoint to validate")],
    img: Img = 640,
    batch: Batch = 32,
    task: Annotated[str, typer.Option(help="split: train, val or test")] = "val",
    conf: Conf = 0.001,
    iou: Iou = 0.7,
    max_det: MaxDet = 300,
    device: Device = "auto",
    workers: Workers = 8,
    project: Project = "runs/val",
    name: Name = "exp",
    exist_ok: ExistOk = False,
    single_cls: SingleCls = False,
    amp: Annotated[str, typer.Option(help="mixed precision: off, fp16, bf16")] = "off",
    save_json: Annotated[bool, typer.Option("--save-json", help="write detections as COCO JSON")] = False,
    strict: Strict = False,
) -> None:
    """Validate a checkpoint: COCO AP, each class, speed, curves and confusion matrix."""
    from yolov9k.common.device import pick_device
    from yolov9k.config.recipe import TrainRecipe
    from yolov9k.data.config import SPLITS, load_split
    from yolov9k.data.loader import make_loader
    from yolov9k.engine.evaluate.validator import print_metrics, validate
    from yolov9k.engine.train.run_dir import run_directory
    from yolov9k.engine.train.trainer import make_criterion
    from yolov9k.models.checkpoints import load

    if task not in SPLITS:
        raise UserError(f"--task {task}: expected one of {', '.join(SPLITS)}; speed is printed with each of them")
    split = load_split(data, task, single_cls=single_cls, strict=strict)
    model = load(weights).to(pick_device(device))
    loader = make_loader(split, TrainRecipe(), img_size=_rounded(img), batch=batch, augment=False, rect=True, workers=workers)
    with run_directory(project, name, exist_ok) as directory:
        result = validate(
            model, loader, split=split, criterion=make_criterion(model, TrainRecipe()), conf=conf, iou=iou,
            max_det=max_det, amp=amp, single_cls=single_cls, plots_dir=directory,
            save_json=directory / "predictions.json" if save_json else None,
        )  # fmt: skip
    loader.close()
    print_metrics(result, console)
    console.print(f"run: {directory}")


@app.command()
def predict(
    source: Annotated[str, typer.Option(help="image, folder, glob, video, or .txt list of them")],
    weights: Annotated[str, typer.Option(help="checkpoint")],
    img: Img = 640,
    conf: Conf = 0.25,
    iou: Iou = 0.45,
    max_det: MaxDet = 1000,
    classes: Annotated[str | None, typer.Option(help="keep these classes alone, by number or name: 0 2 3")] = None,
    agnostic_nms: Annotated[bool, typer.Option("--agnostic-nms", help="boxes of different classes compete")] = False,
    device: Device = "auto",
    amp: Annotated[str, typer.Option(help="mixed precision: off, fp16, bf16")] = "off",
    project: Project = "runs/predict",
    name: Name = "exp",
    exist_ok: ExistOk = False,
    save_txt: Annotated[bool, typer.Option("--save-txt", help="write YOLO labels")] = False,
    save_conf: Annotated[bool, typer.Option("--save-conf", help="with scores in the labels")] = False,
    save_json: Annotated[bool, typer.Option("--save-json", help="write predictions.json")] = False,
    nosave: Annotated[bool, typer.Option("--nosave", help="write no annotated images or videos")] = False,
    hide_labels: Annotated[bool, typer.Option("--hide-labels", help="draw boxes without names")] = False,
    hide_conf: Annotated[bool, typer.Option("--hide-conf", help="draw names without scores")] = False,
    line_thickness: Annotated[int | None, typer.Option(help="width of the boxes' lines in pixels")] = None,
    max_frames: Annotated[int | None, typer.Option(help="most frames of each video")] = None,
) -> None:
    """Detect objects in images and videos."""
    from yolov9k.engine.predict.predictor import Predictor
    from yolov9k.engine.predict.writers import predict_to_folder
    from yolov9k.engine.train.run_dir import run_directory

    chosen = [int(c) if c.isdigit() else c for c in classes.split(",")] if classes else None
    predictor = Predictor(weights, _rounded(img), conf, iou, chosen, agnostic_nms, max_det, device, amp)
    with run_directory(project, name, exist_ok) as directory:
        summary = predict_to_folder(
            predictor, source, directory, save_txt=save_txt, save_conf=save_conf, save_json=save_json, save_image=not nosave,
            hide_labels=hide_labels, hide_conf=hide_conf, line_width=line_thickness, max_frames=max_frames,
        )  # fmt: skip
    found = ", ".join(f"{count} {name}" for name, count in summary.counts.items()) or "nothing"
    media = f"{summary.images} images, {summary.videos} videos ({summary.frames} frames)"
    skipped = f"; {len(summary.skipped)} unreadable files are left out" if summary.skipped else ""
    console.print(f"{media}: {found}; {summary.speed}{skipped}")
    console.print(f"run: {directory}")


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(help="model's name, YAML file or checkpoint; without one, the machine")] = None,
    img: Img = 640,
    nc: Annotated[int | None, typer.Option(help="number of classes; left out: the YAML's, else 80")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="print the steps that each block runs on a GPU, and their cost")] = False,
) -> None:
    """Print a model's layers, parameters and GFLOPs; without a model, the backends that are there and what is missing."""
    from yolov9k.models import create_model
    from yolov9k.models.analysis import step_cost, summary
    from yolov9k.models.checkpoints import load

    if model is None:
        _print_machine()
        return
    network = load(model) if Path(model).suffix in (".pt", ".safetensors") else create_model(model, nc)
    size = _rounded(img)
    console.print(summary.table(network, size))
    forms = {"training": network}
    if network.head.num_branches > 1:
        forms["lean"] = network.to_lean()
    forms["fused"] = network.to_lean().fuse()
    for form, twin in forms.items():
        parameters, gflops = summary.cost(twin, size)
        console.print(f"{form:>8}: {parameters:,} parameters, {gflops:.1f} GFLOPs")
    if plan:
        for line in step_cost.plan_lines(network, size):
            console.print(line, markup=False, highlight=False)
        console.print(step_cost.cost_table(network, img_size=size))


@app.command()
def profile(
    cfg: Annotated[str, typer.Option(help="model: yolov9-t, -s, -m, -c, -e, gelan-t ... -e, or a YAML file")],
    batch: Batch = 16,
    img: Img = 640,
    nc: Annotated[int, typer.Option(help="classes of the drawn images; with --data the data's count")] = 80,
    device: Device = "auto",
    mode: Annotated[str, typer.Option(help="training step: auto, eager, captured (CUDA graphs), compiled")] = "auto",
    amp: Amp = "auto",
    steps: Annotated[int, typer.Option(help="steps that are measured, after warming up")] = 10,
    data: Annotated[str | None, typer.Option(help="measure with a data set's loader; without, on random images")] = None,
    workers: Workers = 8,
    project: Project = "runs/profile",
    name: Name = "exp",
) -> None:
    """Where a training step's time goes: parts, launches, synchronizations, bytes and memory, each beside its floor."""
    from yolov9k.engine.profile.profiler import run_profile

    run_profile(
        cfg, batch=batch, img=_rounded(img), nc=nc, device=device, mode=mode, amp=amp, steps=steps, data=data,
        workers=workers, project=project, name=name, console=console,
    )  # fmt: skip


@data_app.command("check")
def data_check(
    path: Annotated[str, typer.Argument(help="data.yaml, or a folder or file of YOLO, COCO or Pascal VOC labels")],
    plot: Annotated[str | None, typer.Option(help="draw a grid of labeled images into this PNG")] = None,
    strict: Strict = False,
) -> None:
    """Report images, boxes, classes, box sizes, and every fault with its file and line."""
    from yolov9k.data.check import check_data, print_report
    from yolov9k.data.config import find_splits, load_split
    from yolov9k.data.grid import plot_grid

    report = check_data(path)
    print_report(report, console)
    if plot:
        console.print(f"grid: {plot_grid(load_split(path, find_splits(path)[0]), plot)}")
    if strict and report.fatal_count:
        raise UserError(f"{path}: {report.fatal_count} faults; correct or remove them")


@app.command()
def demo(
    folder: Annotated[str, typer.Option(help="where the generated images go")] = "runs/demo-data",
    project: Project = "runs/train",
    epochs: Annotated[int, typer.Option(help="passes over the generated images")] = 14,
    scenes: Annotated[int, typer.Option(help="images to train on; a fifth of them more are drawn to validate")] = 480,
) -> None:
    """Generate images of shapes, train yolov9-t on them, and draw its predictions beside the truth: some minutes on a CPU."""
    from yolov9k.engine.demo import run_demo

    run_demo(folder, project, epochs, console, scenes)


def _print_machine() -> None:
    import torch

    from yolov9k import __version__, ops
    from yolov9k.common.device import cuda_device, device_name, has_cuda
    from yolov9k.ops import cudnn
    from yolov9k.ops.backends import why_missing

    gpu = device_name(cuda_device()) if has_cuda() else "none that torch sees"
    console.print(f"yolov9k {__version__}, torch {torch.__version__}, GPU: {gpu}")
    for part in ("cpu", "cuda"):
        console.print(f"native code, {part}: {_native_state(part)}", markup=False)
    console.print(f"cuDNN's fused convolutions: {cudnn.describe()}", markup=False)
    console.print(f"Triton: {why_missing('triton') or 'ready'}", markup=False)
    for operator in ops.operators():
        console.print(f"{operator}: {', '.join(ops.available(operator))}")


def _native_state(part: str) -> str:
    """How the compiled kernels of "cpu" or "cuda" were built, why they cannot be called here, or both."""
    from yolov9k import native

    info: dict[str, Any] = native.build_info() if native.available() else {"cuda": None}
    if part == "cuda":
        compiler = f"CUDA {info['cuda']} for {' '.join(info['archs'])}" if info["cuda"] else ""
    else:
        compiler = info.get("compiler", "")
    return "; ".join(filter(None, [compiler and f"built with {compiler}", native.why_missing(part)]))


def _rounded(img: int) -> int:
    from yolov9k.data.letterbox import rounded_size

    return rounded_size(img, "--img")


def _batch(text: str) -> int:
    """Images an iteration, 0 for the most that fit."""
    if text in ("auto", "-1"):
        return 0
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"--batch {text}: expected a number from 1 on, or auto")
    return int(text)


def _numbers(text: str | None, flag: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UserError(f"{flag} {text}: expected whole numbers") from None


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: faults of the user's are one line on stderr and exit status 2, an interruption 130."""
    try:
        given = sys.argv[1:] if arguments is None else arguments
        app(args=published_style(given), prog_name="yolov9k", standalone_mode=True)
    except UserError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[red]error:[/red] {escape(str(error))}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
