"""cuDNN's runtime fusion of convolution, bias and swish, through PyPI's nvidia-cudnn-frontend; optional.

What an engine supports changes with cuDNN's version, the GPU and the shape, so nothing is assumed: `probe` builds, and a shape
whose graph does not build raises.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yolov9k.common.device import cuda_device, current_stream, has_cuda, on_device

DTYPES = {torch.bfloat16: "BFLOAT16", torch.float16: "HALF"}  # cuDNN's names
ALIGNMENT = 16  # bytes that cuDNN takes every address to be a multiple of


class Layout(NamedTuple):
    """Extents and strides of a tensor, in values."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _layout(tensor: Tensor) -> Layout:
    return Layout(tuple(tensor.shape), tensor.stride())


@functools.cache
def _load() -> tuple[Any, str]:
    """The frontend's module, or why it is not here."""
    if importlib.util.find_spec("cudnn") is None:
        return None, "nvidia-cudnn-frontend is not installed; `pip install -e '.[cudnn]'`"
    if not has_cuda():
        return None, "torch sees no CUDA device"
    try:
        module = importlib.import_module("cudnn")
        module.backend_version()
    except Exception as error:  # its binary part raises what it likes
        return None, f"nvidia-cudnn-frontend cannot be used: {_line(error)}"
    return module, ""


def _line(error: Exception) -> str:
    """An error as one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def frontend_version() -> str:
    """Version of the frontend that can be called here, empty where there is none."""
    module, _ = _load()
    return str(module.__version__) if module else ""


def why_missing(dtype: torch.dtype) -> str:
    """Why cuDNN's fusion cannot compute in `dtype` here, empty where it can."""
    if dtype not in DTYPES:
        return f"it computes in bfloat16 and float16, got {dtype}"
    answer = probe(cuda_device().index)
    return str(answer["reason"] or answer[str(dtype).removeprefix("torch.")])


@functools.cache
def probe(device: int = 0) -> dict[str, str]:
    """What the installed cuDNN builds on a GPU.

    frontend, backend: versions, empty where there is none. reason: why nothing can be built, empty where it can.
    bfloat16, float16: why convolution + bias + swish does not build, empty where it does.
    """
    module, reason = _load()
    answer = {"frontend": "", "backend": "", "reason": reason, "bfloat16": reason, "float16": reason}
    if module is None:
        return answer
    answer |= {"frontend": str(module.__version__), "backend": str(module.backend_version())}
    shape, strides = (1, 64, 16, 16), (16 * 16 * 64, 1, 16 * 64, 64)
    x, weight = Layout(shape, strides), Layout((64, 64, 3, 3), (9 * 64, 1, 3 * 64, 64))
    for dtype in DTYPES:
        try:
            _graph(device, threading.get_ident(), dtype, x, weight, x, None, 1, 1, True)
            problem = ""
        except Exception as error:  # what does not build is the answer, whatever the error's class
            problem = _line(error)
        answer[str(dtype).removeprefix("torch.")] = problem
    return answer


def describe() -> str:
    """The probe's answer for `yolov9k info`, one line."""
    answer = probe(cuda_device().index)
    if answer["reason"]:
        return answer["reason"]
    parts = [f"{name} {f'no ({answer[name]})' if answer[name] else 'yes'}" for name in ("bfloat16", "float16")]
    return f"frontend {answer['frontend']}, cuDNN {answer['backend']}; convolution + bias + swish: {', '.join(parts)}"


@functools.cache
def _handle(device: int, thread: int) -> Any:
    """cuDNN's handle; one for each thread, as cuDNN asks."""
    with on_device(torch.device("cuda", device)):
        return _load()[0].create_handle()


class _Graph(NamedTuple):
    """A built graph, its tensors and the bytes of its workspace."""

    graph: Any
    inputs: tuple[Any, ...]  # x, weight, bias and, where there is one, the residual
    output: Any
    workspace: int


@functools.lru_cache(maxsize=1024)
def _graph(
    device: int, thread: int, dtype: torch.dtype, x: Layout, weight: Layout, out: Layout, residual: Layout | None, stride: int,
    padding: int, activation: bool,
) -> _Graph:  # fmt: skip
    """One shape's graph; the number of groups follows from the channels of x and weight."""
    cudnn = _load()[0]
    kind, full = getattr(cudnn.data_type, DTYPES[dtype]), cudnn.data_type.FLOAT
    width = weight.shape[0]
    bias = Layout((1, width, 1, 1), (width, 1, width, width))
    with on_device(torch.device("cuda", device)):
        graph = cudnn.pygraph(
            io_data_type=kind, intermediate_data_type=full, compute_data_type=full, handle=_handle(device, thread)
        )
        named = {"x": x, "weight": weight, "bias": bias} | ({} if residual is None else {"residual": residual})
        inputs = tuple(
            graph.tensor(name=name, dim=list(layout.shape), stride=list(layout.strides), data_type=kind)
            for name, layout in named.items()
        )
        y = graph.conv_fprop(
            image=inputs[0], weight=inputs[1], padding=[padding] * 2, stride=[stride] * 2, dilation=[1, 1],
            compute_data_type=full,
        )  # fmt: skip
        y = graph.bias(input=y, bias=inputs[2])
        y = graph.swish(input=y) if activation else y
        y = graph.add(a=y, b=inputs[3]) if residual is not None else y
        y.set_output(True)
        y.set_data_type(kind)
        y.set_dim(list(out.shape))
        y.set_stride(list(out.strides))
        graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        return _Graph(graph, inputs, y, int(graph.get_workspace_size()))


def is_aligned(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether every address is one that cuDNN may be given; elsewhere it would fault."""
    return all(tensor is None or tensor.data_ptr() % ALIGNMENT == 0 for tensor in tensors)


def conv_silu(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, activation: bool, out: Tensor,
    residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Write SiLU(conv(x) + bias) + residual to `out` on torch's current stream; arguments as in `ops.conv_silu`.

    Raises RuntimeError or ValueError where cuDNN has no engine for the shape, layout or GPU.
    """
    if not is_aligned((x, weight, bias, out, residual)):
        raise ValueError(f"conv_silu: cuDNN takes addresses that are multiples of {ALIGNMENT} bytes")
    device, thread = x.get_device(), threading.get_ident()
    extra = None if residual is None else _layout(residual)
    built = _graph(
        device, thread, x.dtype, _layout(x), _layout(weight), _layout(out), extra, stride, padding, activation
    )  # fmt: skip
    given = [x, weight, bias.view(1, -1, 1, 1)] + ([] if residual is None else [residual])
    with on_device(torch.device("cuda", device)):
        handle = _handle(device, thread)
        _load()[0].set_stream(handle=handle, stream=current_stream(x.device).cuda_stream)
        workspace = torch.empty(max(built.workspace, 1), dtype=torch.uint8, device=x.device)
        tensors = dict(zip(built.inputs, given, strict=True)) | {built.output: out}
        built.graph.execute(tensors, workspace, handle=handle)
    return out
