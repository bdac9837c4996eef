"""Devices: the only place that asks what a device is. Elsewhere nothing compares a device's type or calls `torch.cuda`.

CUDA devices have streams, events and graphs, and run the project's kernels. On the CPU its C++ runs. MPS and XPU, where torch
has them, run the reference operators; neither has been tried (no such machine was at hand).
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolov9k.common.errors import UserError

AMP = {"off": None, "fp16": torch.float16, "bf16": torch.bfloat16}
Event = torch.cuda.Event
Stream = torch.cuda.Stream
_KNOWN = "cpu, cuda, cuda:N, N, mps or xpu"


def is_cuda(device: torch.device) -> bool:
    """Whether streams, events, graphs and the project's GPU kernels are there."""
    return device.type == "cuda"


def is_cpu(device: torch.device) -> bool:
    """Whether the host can read a tensor of this device in place."""
    return device.type == "cpu"


def has_cuda() -> bool:
    """Whether torch sees a CUDA device."""
    return torch.cuda.is_available()


def cuda_device() -> torch.device:
    """The current CUDA device, the first one where torch sees none: what a kernel's probe asks about."""
    return torch.device("cuda", torch.cuda.current_device() if has_cuda() else 0)


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """None or "auto": the first CUDA device, else the CPU; "cpu", "cuda", "cuda:1" or just "1", "mps", "xpu".

    Raises UserError for what torch does not know, cannot use here, or cannot train on (meta, for example).
    """
    text = "" if device is None else str(device).strip().lower()
    if text in ("", "auto"):
        return torch.device("cuda" if has_cuda() else "cpu")
    if "," in text:
        raise UserError(f"--device {device}: a run uses one device; give one of them")
    try:
        chosen = torch.device(f"cuda:{text}" if text.isdecimal() else text)
    except RuntimeError:
        raise UserError(f"--device {device}: no such device; give {_KNOWN}") from None
    if reason := why_unusable(chosen):
        raise UserError(f"--device {device}: {reason}; use --device cpu")
    return chosen


def why_unusable(device: torch.device) -> str:
    """Why nothing can be trained or predicted on a device here, empty where it can."""
    if device.type == "cpu":
        return "" if not device.index else "there is one CPU device"
    counts = {"cuda": torch.cuda.device_count, "xpu": torch.xpu.device_count, "mps": torch.mps.device_count}
    if device.type not in counts:
        return f"{device.type} is not a device that models run on; expected {_KNOWN}"
    count = counts[device.type]()
    if (device.index or 0) < count:
        return ""
    return f"torch sees {count} {device.type.upper()} device{'s' if count != 1 else ''}"


def device_name(device: torch.device) -> str:
    """What a report calls a device: the GPU's name, or the CPU with torch's threads."""
    if is_cuda(device):
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads" if is_cpu(device) else str(device)


def model_device(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(model.parameters()).device


def exact_dtype(device: torch.device) -> torch.dtype:
    """The widest floating dtype that a device computes in: float64, but float32 on MPS and on XPUs without it."""
    if device.type == "mps":
        return torch.float32
    if device.type == "xpu" and not torch.xpu.get_device_properties(device).has_fp64:
        return torch.float32
    return torch.float64


def widened(tensor: Tensor) -> Tensor:
    """A tensor in `exact_dtype`, for what is to be rounded once."""
    return tensor.to(exact_dtype(tensor.device))


def choose_amp(amp: str, device: torch.device) -> str:
    """ "auto" by device: bf16 or fp16 on a CUDA device, off elsewhere; anything else as it is."""
    if amp != "auto":
        return amp
    if not is_cuda(device):
        return "off"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """Mixed precision by name: "off", "fp16" or "bf16". Raises UserError for another."""
    if amp not in AMP:
        raise UserError(f"--amp {amp}: expected one of {', '.join(AMP)}")
    return autocast_to(device, AMP[amp])


def autocast_to(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Mixed precision in `dtype`, none at all without one."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


# Streams and events. Off CUDA the host waits for every operation, or torch does where it must.


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that was asked of it."""
    if is_cuda(device):
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    elif device.type == "xpu":
        torch.xpu.synchronize(device)


def new_stream(device: torch.device) -> Stream:
    """Another stream of a CUDA device."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def current_stream(device: torch.device) -> Stream:
    """The stream on which torch queues a CUDA device's work."""
    return torch.cuda.current_stream(device)


def on_stream(stream: Stream) -> AbstractContextManager[Any]:
    """Queue what is asked inside on a stream."""
    return torch.cuda.stream(stream)


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Make a CUDA device the current one; nothing on others."""
    return torch.cuda.device(device) if is_cuda(device) else contextlib.nullcontext()


def record_event(device: torch.device, timing: bool = False) -> Event:
    """An event in a CUDA device's current stream."""
    event = torch.cuda.Event(enable_timing=timing)  # type: ignore[no-untyped-call]
    event.record(current_stream(device))
    return event


def is_pinnable() -> bool:
    """Whether page-locked memory makes copies to a device faster."""
    return has_cuda()


def to_host(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Event | None]:
    """The tensors' copies on the host, and the event after which they are there; None where they are there already."""
    if not tensors or is_cpu(tensors[0].device):
        return tensors, None
    if not is_cuda(tensors[0].device):
        return [tensor.cpu() for tensor in tensors], None
    landings = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True) for t in tensors]
    return landings, record_event(tensors[0].device)


# Memory.


def free_device_memory(device: torch.device) -> int | None:
    """Bytes of a CUDA device that this process can still take; what torch keeps but does not use is free. None elsewhere."""
    if not is_cuda(device):
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def empty_cache() -> None:
    """Give what torch's allocator keeps but does not use back to the GPU."""
    if has_cuda():
        torch.cuda.empty_cache()


def reset_peak_memory(device: torch.device) -> int:
    """Begin a new peak of a CUDA device's reserved memory; returns the bytes that are reserved now."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_reserved(device)


def peak_reserved(device: torch.device) -> int | None:
    """The most bytes that torch reserved on a CUDA device, None elsewhere."""
    return torch.cuda.max_memory_reserved(device) if is_cuda(device) else None


def peak_allocated(device: torch.device) -> int | None:
    """The most bytes that tensors took on a CUDA device, None elsewhere."""
    return torch.cuda.max_memory_allocated(device) if is_cuda(device) else None


class DeviceMemory(NamedTuple):
    """Bytes of a GPU: of tensors, what torch reserved for them, and all there is."""

    allocated: int
    reserved: int
    total: int


def device_memory(device: torch.device) -> DeviceMemory | None:
    """A CUDA device's memory now, None elsewhere."""
    if not is_cuda(device):
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    return DeviceMemory(torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device), total)


def identity(device: torch.device) -> list[str]:
    """What tells apart devices on which another kernel may be the fastest: a name, and of a GPU its compute capability."""
    if not is_cuda(device):
        return [platform.processor() or platform.machine()]
    properties = torch.cuda.get_device_properties(device)
    return [properties.name, f"{properties.major}.{properties.minor}"]


# CUDA graphs.


class NotRecorded(Exception):
    """A step that asks the host for something cannot be recorded; nothing of it was done."""


class Recording(NamedTuple):
    """A step that can be repeated: `replay` does it again on whatever its inputs hold by then, and renews `result`."""

    replay: Callable[[], Any]
    result: Tensor


def is_capturing() -> bool:
    """Whether a CUDA graph is being recorded on the current stream."""
    return has_cuda() and torch.cuda.is_current_stream_capturing()


class GraphRecorder:
    """Records CUDA graphs on a stream of its own, in one pool of memory: they are replayed one at a time."""

    def __init__(self, device: torch.device) -> None:
        self.stream = new_stream(device)
        self.pool: Any = None

    def run(self, step: Callable[[], Tensor]) -> Tensor:
        """Run a step as it is, where it would be recorded: the memory and the workspaces of libraries belong to a stream."""
        current = current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with on_stream(self.stream):
            result = step()
        current.wait_stream(self.stream)
        result.record_stream(current)
        return result

    def record(self, step: Callable[[], Tensor]) -> Recording:
        """Record what a step launches, without doing it. Raises NotRecorded, and OutOfMemoryError as it comes."""
        graph, current = torch.cuda.CUDAGraph(), current_stream(self.stream.device)
        pool = self.pool or torch.cuda.graph_pool_handle()
        try:  # other threads, which pin batches, may go on calling CUDA meanwhile
            with torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local"):
                result = step()
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of a broken capture raises too
            self._abandon(pool, current)
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            raise NotRecorded(" ".join(str(cause).split())) from error
        self.pool = pool
        return Recording(graph.replay, result)

    def _abandon(self, pool: Any, current: Stream) -> None:
        """Undo what torch leaves behind where a capture does not end well: its stream, its pool of memory, its generator."""
        index = self.stream.device_index
        with contextlib.suppress(RuntimeError):  # which says that it had ended
            torch._C._cuda_endAllocateToPool(index, pool)
            torch._C._cuda_releasePool(index, pool)
        with contextlib.suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=self.stream):
            torch.zeros(1, device=self.stream.device)  # one that ends well tells the random generator so
        torch.cuda.set_stream(current)
