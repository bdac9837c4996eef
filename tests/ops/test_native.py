"""The compiled module: what it says of itself, what it refuses, and what is said where it is missing."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
import torch

from tests.support import assign_case, nms_prediction
from yolov9k import native

ROOT = Path(__file__).resolve().parents[2]
needs_native = pytest.mark.skipif(not native.available(), reason=native.why_missing() or "built")


@needs_native
def test_build_info_tells_how_it_was_compiled() -> None:
    info = native.build_info()
    assert set(info) == {"version", "compiler", "cuda", "archs"}
    assert (info["cuda"] is None) == (info["archs"] == [])


def stub() -> dict[str, ast.FunctionDef]:
    """The functions of yolov9k/_native.pyi."""
    tree = ast.parse((ROOT / "yolov9k" / "_native.pyi").read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_stub_has_what_the_bindings_define() -> None:
    bindings = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "csrc").glob("bindings*.cpp")))
    assert sorted(re.findall(r'module\.def\("(\w+)"', bindings)) == sorted(stub())
    assert re.findall(r'module\.attr\("(\w+)"\)', bindings) == ["nms_scratch"]
    assert "nms_scratch: dict[str, int]" in (ROOT / "yolov9k" / "_native.pyi").read_text(encoding="utf-8")


@needs_native
def test_the_stub_has_the_modules_signatures() -> None:
    """As pybind11 writes them at the head of each docstring: names of the arguments and the type of the result."""
    from yolov9k import _native

    compiled = [name for name in vars(_native) if callable(getattr(_native, name)) and not name.startswith("__")]
    cuda = {"task_aligned_assign_cuda", "batched_nms_cuda"}
    assert set(stub()) - set(compiled) == (cuda if native.build_info()["cuda"] is None else set())
    for name in compiled:
        (function,) = ast.parse(f"def {getattr(_native, name).__doc__.splitlines()[0]}: ...").body
        assert isinstance(function, ast.FunctionDef)
        wanted = stub()[name]
        assert [argument.arg for argument in function.args.args] == [argument.arg for argument in wanted.args.args], name
        assert (function.args.kwarg is None) == (wanted.args.kwarg is None), name
        assert function.returns is not None
        assert wanted.returns is not None
        assert ast.unparse(function.returns).split("[")[0] == ast.unparse(wanted.returns).split("[")[0], name


@needs_native
def test_the_module_itself_refuses_null_and_negative() -> None:
    from yolov9k import _native

    case = assign_case(0, 1, 2, 64, 2)
    arguments = {**_assign_arguments(), "scores": case[0].data_ptr()}
    assert _native.task_aligned_assign(**arguments)[0] == 1
    assert _native.task_aligned_assign(**{**arguments, "images": -1}) == (1, "a length is negative")
    assert _native.task_aligned_assign(**{**arguments, "topk": 0}) == (1, "topk must be from 1 to 1024")
    assert _native.task_aligned_assign(**{**arguments, "gt_count": 70_000}) == (1, "gt_boxes: more than 65535 boxes an image")
    with pytest.raises(KeyError, match="alpha"):
        _native.task_aligned_assign(**{key: value for key, value in arguments.items() if key != "alpha"})


def _assign_arguments() -> dict[str, object]:
    pointers = ("boxes", "anchors", "labels", "gt_boxes", "regions", "gt_mask", "gt_index", "weight", "weight_sum", "claims")
    lengths = {"images": 1, "count": 84, "gt_count": 2, "classes": 2, "topk": 10, "threads": 1, "dtype": 0}
    strides = {"stride_image": 168, "stride_anchor": 2, "stride_class": 1}
    options = {"alpha": 0.5, "beta": 6.0, "logits": False, "mask_conflicts": False}
    return {**dict.fromkeys((*pointers, "best_metric", "best_overlap", "least", "limits"), 0), **lengths, **strides, **options}


@needs_native
def test_lengths_beyond_the_kernels_are_named() -> None:
    prediction = nms_prediction(0, 1, 5000, 3)
    with pytest.raises(ValueError, match="batched_nms: classes: a filter serves at most 4096 classes"):
        native.batched_nms(prediction, 0.1, 0.5, [4999], False, True, 10)
    scores = torch.rand(1, 1, 1)
    boxes, many = torch.zeros(1, 1, 4), torch.zeros(1, 65_536, 4)
    with pytest.raises(ValueError, match="task_aligned_assign: gt_boxes: more than 65535 boxes an image"):
        native.task_aligned_assign(
            scores, boxes, torch.zeros(1, 2), torch.zeros(1, 65_536), many, torch.ones(1, 65_536), 10, 0.5, 6.0, False, False
        )


@needs_native
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_change_nothing(threads: int) -> None:
    before = torch.get_num_threads()
    case, prediction = assign_case(1, 5, 9, 64, 2), nms_prediction(1, 5, 3, 400)
    try:
        torch.set_num_threads(threads)
        assigned = native.task_aligned_assign(*case, 10, 0.5, 6.0, False, False)
        kept = native.batched_nms(prediction, 0.1, 0.5, None, False, True, 50)
    finally:
        torch.set_num_threads(before)
    for i in range(5):
        alone = native.task_aligned_assign(
            case[0][i : i + 1], case[1][i : i + 1], case[2], *(part[i : i + 1] for part in case[3:]), 10, 0.5, 6.0, False, False
        )
        assert all(torch.equal(whole[i], one[0]) for whole, one in zip(assigned, alone, strict=True))
        single = native.batched_nms(prediction[i : i + 1], 0.1, 0.5, None, False, True, 50)
        assert all(torch.equal(whole[i], one[0]) for whole, one in zip(kept, single, strict=True))


@needs_native
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_cuda_launch_without_a_gpu_is_an_error_with_a_message() -> None:
    from yolov9k import _native

    if native.build_info()["cuda"] is None:
        pytest.skip("built without CUDA")
    pointers = {key: 64 if value == 0 else value for key, value in _assign_arguments().items() if key != "threads"}
    code, message = _native.task_aligned_assign_cuda(**{**pointers, "dtype": 0, "scores": 64, "stream": 0, "logits": False})
    assert code == 2
    assert "CUDA" in message


def test_a_missing_module_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yolov9k._native", None)  # makes the import fail as where nothing was built
    native.module._load.cache_clear()
    try:
        assert not native.available()
        assert "pip install -e ." in native.why_missing()
        with pytest.raises(RuntimeError, match="not built"):
            native.batched_nms(nms_prediction(0, 1, 1, 4), 0.1, 0.5, None, False, True, 10)
    finally:
        native.module._load.cache_clear()


def test_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="'cpu' or 'cuda', not 'tpu'"):
        native.available("tpu")


def test_a_constant_is_marked_as_torch_marks_it() -> None:
    assert vars(native.constant(lambda: "")) == vars(torch.compiler.assume_constant_result(lambda: ""))
