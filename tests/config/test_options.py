"""Options declared once: each field is a flag with its help, a check, a line of args.yaml and a row of the documentation."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer.main
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import yolov9k
from tests.tiers import BY_DAY, examples
from yolov9k.cli import app
from yolov9k.cli.parser import command
from yolov9k.common.device import AMP
from yolov9k.common.errors import UserError
from yolov9k.config import (
    COMMANDS,
    Option,
    Options,
    PredictOptions,
    TrainOptions,
    TrainRecipe,
    ValOptions,
    flags,
    option_fields,
)
from yolov9k.config.option import LIST_SEPARATOR, OptionField
from yolov9k.config.peers import NAMES
from yolov9k.config.table import markdown_table, names_pages, pages
from yolov9k.data.cache.image_cache import check_name
from yolov9k.data.config import SPLITS
from yolov9k.engine.predict.writers import THICKEST
from yolov9k.engine.train.run_dir import save_settings
from yolov9k.engine.train.schedule import CURVES
from yolov9k.engine.train.step import MODES

ALL = [(name, field) for name, options in COMMANDS.items() for field in option_fields(options)]


def click_command(name: str) -> Any:
    """What typer made of a command."""
    found: Any = typer.main.get_command(app)
    for word in name.split():
        found = found.commands[word]
    return found


TEXTS = st.text(max_size=12).filter(lambda text: not text.startswith("~"))  # the home folder is written out


def values_of(field: OptionField) -> st.SearchStrategy[Any]:
    """Any value that a field may have."""
    option = field.option
    low = None if option.low == -float("inf") else option.low
    high = None if option.high == float("inf") else option.high
    kinds: dict[type, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(low, high),  # type: ignore[arg-type]
        float: st.floats(low, high, allow_nan=False, allow_infinity=False),
        str: st.sampled_from(option.choices) if option.choices else TEXTS,
    }
    plain = st.one_of([kinds[kind] for kind in field.kinds])
    if option.words:
        plain = st.one_of(plain, st.sampled_from(list(option.words.values())))
    if field.many:
        return st.lists(plain, max_size=4).map(tuple)
    return st.one_of(st.none(), plain) if field.optional else plain


def objects_of(options: type[Options]) -> st.SearchStrategy[Options]:
    return st.builds(options, **{field.name: values_of(field) for field in option_fields(options)})


@settings(deadline=None, max_examples=examples(100), derandomize=BY_DAY)
@given(st.one_of([objects_of(options) for options in COMMANDS.values()]))
def test_any_options_survive_args_yaml(tmp_path_factory: pytest.TempPathFactory, options: Options) -> None:
    folder = tmp_path_factory.getbasetemp()
    save_settings(folder, args=options.by_flag())
    assert type(options).from_yaml(folder / "args.yaml") == options


@settings(deadline=None, max_examples=examples(50), derandomize=BY_DAY)
@given(objects_of(TrainOptions))
def test_opt_yaml_is_read_as_args_yaml_is(tmp_path_factory: pytest.TempPathFactory, options: TrainOptions) -> None:
    folder = tmp_path_factory.getbasetemp()
    save_settings(folder, opt=options.plain())
    assert TrainOptions.from_yaml(folder / "opt.yaml") == replace(options, resume=None)


def test_opt_yaml_keeps_its_keys_and_values() -> None:
    plain = TrainOptions("data.yaml", "gelan-t", freeze=(1, 2), batch=0).plain()
    keys = """data cfg weights img batch epochs hyp device workers project name exist_ok close_mosaic cache decode rect
        multi_scale single_cls freeze patience amp mode checkpoint bad_steps label_smoothing seed strict difficult noval noplots
        min_items optimizer lr_curve save_period override"""
    assert [key for key in plain if key in keys.split()] == keys.split()  # and those of later flags
    assert (plain["data"], plain["cfg"], plain["freeze"], plain["batch"]) == ("data.yaml", "gelan-t", [1, 2], 0)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_field_is_a_flag_with_its_help(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    printed = CliRunner().invoke(app, [*name.split(), "--help"]).output
    made = {parameter.name: parameter for parameter in click_command(name).params}
    for field in option_fields(COMMANDS[name]):
        parameter = made.pop(field.name)
        assert field.option.help
        assert parameter.help.startswith(field.option.help)
        assert field.option.help in printed
        assert tuple(parameter.opts) == (field.flags or (field.name,))
        assert all(flag in printed for flag in field.flags)
        assert parameter.required == (field.default is MISSING)
        assert f"--{field.key}" in field.flags or field.option.argument
    assert not made  # and no flag without a field


@pytest.mark.parametrize("name", COMMANDS)
def test_no_flag_exists_twice(name: str) -> None:
    every = Counter(flag for field in option_fields(COMMANDS[name]) for flag in field.flags)
    assert [flag for flag, count in every.items() if count > 1] == []
    assert len({field.name for field in option_fields(COMMANDS[name])}) == len(fields(COMMANDS[name]))


@dataclass
class Grown(TrainOptions):
    """A class with two fields more."""

    warm_steps: Annotated[int, Option("steps to warm up", low=3, unit="steps")] = 7
    polish: Annotated[bool, Option("polish the weights")] = True


def test_a_field_more_is_flag_check_help_yaml_and_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    seen: list[Grown] = []
    grown = typer.Typer()
    grown.command()(command(Grown, seen.append))
    runner = CliRunner()
    given = ["--data", "d", "--cfg", "c", "--epochs", "60", "--warm-steps"]
    assert runner.invoke(grown, [*given, "2"]).exit_code == 0
    with pytest.raises(UserError, match=r"^--warm-steps 2: expected at least 3$"):
        seen[-1].check()
    assert runner.invoke(grown, [*given, "5", "--no-polish"]).exit_code == 0
    assert (seen[-1].warm_steps, seen[-1].polish, seen[-1].epochs) == (5, False, 60)
    assert seen[-1].given == {"data", "cfg", "epochs", "warm_steps", "polish"}
    seen[-1].check()
    assert runner.invoke(grown, given[:-1]).exit_code == 0
    assert (seen[-1].warm_steps, seen[-1].polish) == (7, True)
    assert "steps to warm up [default: 7]" in " ".join(runner.invoke(grown, ["--help"]).output.split())
    save_settings(tmp_path, args=Grown("d", warm_steps=9).by_flag())
    assert "warm-steps: 9\n" in (tmp_path / "args.yaml").read_text()
    assert Grown.from_yaml(tmp_path / "args.yaml").warm_steps == 9
    rows = markdown_table(Grown).splitlines()
    assert "| `--warm-steps` | whole number, at least 3 (steps) | `7` | steps to warm up |" in rows
    assert "| `--polish` | given or not | `True` | polish the weights |" in rows


def test_a_field_without_an_option_is_a_mistake_of_ours() -> None:
    @dataclass
    class Bare(Options):
        speed: int = 1

    with pytest.raises(TypeError, match=r"Bare\.speed: annotate it"):
        option_fields(Bare)


@pytest.mark.parametrize(
    ("name", "field"), [(n, f) for n, f in ALL if f.option.choices], ids=lambda value: getattr(value, "name", value)
)
def test_choices_are_checked(name: str, field: OptionField) -> None:
    for choice in field.option.choices:
        field.check(choice)
    with pytest.raises(UserError, match=rf"^--{field.key} other: (expected one of|no such cache; choose)"):
        field.check("other")


@pytest.mark.parametrize(("name", "field"), ALL, ids=lambda value: getattr(value, "name", value))
def test_ranges_are_checked(name: str, field: OptionField) -> None:
    low, high = field.option.low, field.option.high
    for bound, beyond in ((low, low - 2), (high, high + 1)):
        if abs(bound) != float("inf"):
            field.check(bound)
            with pytest.raises(UserError, match=rf"^--{field.key} -?[0-9]+: expected (at least|a number from) "):
                field.check(beyond)


def test_defaults_are_in_their_ranges() -> None:
    for options in (*COMMANDS.values(), TrainRecipe):
        for field in option_fields(options):
            if field.default not in (MISSING, ""):
                field.check(field.default)


def test_choices_are_those_of_the_code_that_obeys_them() -> None:
    assert tuple(MODES) == flags.MODES
    assert tuple(CURVES) == flags.LR_CURVES
    assert tuple(AMP) == flags.AMP_NAMES
    assert tuple(SPLITS) == flags.SPLITS
    assert flags.THICKEST == THICKEST
    for cache in flags.CACHES:
        check_name(cache)
    with pytest.raises(UserError, match="--cache cpu: no such cache; choose 'ram' or 'disk'"):
        check_name("cpu")


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ("--data d", {}),
        ("--data d --batch auto --freeze 3,1 --cfg= --hyp= --weights=", {"batch": 0, "freeze": (3, 1)}),
        ("--data d --batch-size -1 --cache= --imgsz 96", {"batch": 0, "cache": "ram", "img": 96}),
        ("--data d --batch 8 --rect --resume=", {"batch": 8, "rect": True, "resume": "latest"}),
    ],
)  # fmt: skip
def test_texts_of_the_command_line_become_values(arguments: str, changes: dict[str, Any]) -> None:
    seen: list[TrainOptions] = []
    alone = typer.Typer()
    alone.command()(command(TrainOptions, seen.append))
    assert CliRunner().invoke(alone, arguments.split()).exit_code == 0
    assert seen == [TrainOptions("d", **changes)]


def test_names_and_numbers_of_classes() -> None:
    field = next(field for field in option_fields(PredictOptions) if field.name == "classes")
    assert field.parse(LIST_SEPARATOR.join(("0", "a, cat", "3"))) == (0, "a, cat", 3)
    assert field.parse(None) == ()
    assert field.parse("²") == ("²",)
    assert field.parse("9" * 5000) == ("9" * 5000,)  # none is a number of a class


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown option 'epoch'; did you mean 'epochs'?"),
        ("zzz: 3", "unknown option 'zzz'; known: data, cfg, "),
        ("epochs: many", "epochs is 'many', expected a number"),
        ("epochs: 2.5", "epochs is 2.5, expected int from 1 to inf"),
        ("epochs: 0", "epochs is 0, expected int from 1 to inf"),
        ("epochs:", "epochs is None, expected a number"),
        ("exist-ok: 1", "exist-ok is 1, expected true or false"),
        ("name: true", "name is True, expected a text"),
        ("name: [a]", "name is ['a'], expected a text"),
        ("batch: false", "batch is False, expected int from 1 to inf"),
        ("batch: []", "batch is [], expected a number"),
        ("freeze: 3", "freeze is 3, expected a list"),
        ("freeze: [x]", "freeze is 'x', expected a number"),
        ("- epochs", "expected 'key: value' lines, found list"),
    ],
)
def test_an_error_in_args_yaml_is_one_line_with_file_and_option(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "args.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        TrainOptions.from_yaml(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_args_yaml_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "args.yaml"
    path.write_text("data: d\ndevice: 0\nbatch: auto\nlabel-smoothing: 1e-3\nexist_ok: true\n")
    assert TrainOptions.from_yaml(path) == TrainOptions("d", device="0", batch=0, label_smoothing=0.001, exist_ok=True)
    path.write_text("data: d")
    with pytest.raises(UserError, match=r"args\.yaml: lacks weights$"):
        ValOptions.from_yaml(path)
    with pytest.raises(UserError, match=r"gone\.yaml: cannot be read"):
        TrainOptions.from_yaml(tmp_path / "gone.yaml")


def test_tables_have_a_row_for_each_option() -> None:
    text = "\n".join(pages())
    for name, options in {**COMMANDS, "recipe": TrainRecipe}.items():
        table = markdown_table(options)
        assert table in text, name
        rows = [line.split(" | ") for line in table.splitlines()[2:]]
        assert [row[0].strip("| ").split("`")[1] for row in rows] == [
            (f.flags or (f.key.upper(),))[0] if name != "recipe" else f.name for f in option_fields(options)
        ]
        assert all(len(row) == 4 and row[1] for row in rows)


def test_help_needs_no_torch_and_options_nothing_above_them() -> None:
    """`import yolov9k` itself brings torch, so its rooms are imported under a package without contents."""
    program = f"""
import sys, types
package = types.ModuleType("yolov9k")
package.__path__ = {list(yolov9k.__path__)!r}
sys.modules["yolov9k"] = package
import yolov9k.config, yolov9k.config.table
print(*(name for name in sys.modules if name.startswith("yolov9k.")))
from yolov9k.cli import main
try:
    main(["train", "--help"])
except SystemExit as end:
    assert not end.code
assert not {{"torch", "numpy", "cv2"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--epochs" in done.stdout
    assert {name.split(".")[1] for name in done.stdout.splitlines()[0].split()} == {"config", "common"}


def test_presets_are_package_data() -> None:
    """They lie in the package, in files that pyproject.toml's pattern takes along."""
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"**/*.yaml"' in project
    presets = Path(yolov9k.__path__[0]) / "config" / "presets"
    assert {path.stem for path in presets.iterdir()} == {"small", "demo"}
    assert all(yaml.safe_load(path.read_text()) for path in presets.iterdir())


def test_tables_of_names_have_a_row_for_each_name() -> None:
    text = "\n".join(names_pages())
    listed = [name for commands in NAMES.values() for names in commands.values() for name in names.split()]
    assert [row.split("`")[1] for row in text.splitlines() if row.startswith("| `")] == listed
    for row in (
        "| `imgsz` | `--img` |",
        "| `cos_lr` | `--lr-curve` (true: cosine, false: nothing to do) |",
        "| `model` | `--weights` for a checkpoint, `--cfg` for a model's name |",
        "| `nbs` | hyper-parameter `nominal_batch` |",
        "| `noautoanchor` | no effect: YOLOv9 has no anchor sizes to fit |",
        "| `evolve` | refused: give hyper-parameters by --hyp |",
    ):
        assert row in text
