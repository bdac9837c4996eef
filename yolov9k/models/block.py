"""A block that can run as a plan: one operator that writes into preallocated maps, where its kernels are at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from yolov9k.ops.backends import choose
from yolov9k.ops.plan.ir import ConvLayer, ConvSpec, Plan, Planner, Slice
from yolov9k.ops.plan.planned import planned, planned_fused, register_plan


class PlanBuilder(Planner):
    """A planner that knows the modules whose steps it writes down."""

    def __init__(self, block: Block, width: int, fused: bool) -> None:
        super().__init__(width, fused)
        self.names = {module: name or type(block).__name__ for name, module in block.named_modules()}
        self.modules: list[Any] = []

    def spec(self, block: Any) -> ConvSpec:
        """What the plan needs to know of a Conv; the next layer is its own."""
        conv, bn = block.conv, None if self.fused else block.bn
        self.modules.append(block)
        constants = () if bn is None else (bn.eps, bn.momentum)
        layer = ConvLayer(self.names[block], conv.out_channels, *constants)
        kernel, stride, padding = int(conv.kernel_size[0]), int(conv.stride[0]), int(conv.padding[0])
        return ConvSpec(layer, kernel, stride, padding, conv.groups, type(block.act) is nn.SiLU)


class Block(nn.Module):
    """A part of the network that is defined by `forward_reference`, in plain modules, and by `build_plan` as steps of a plan.

    backend: "auto" runs the plan where kernels serve the device, "reference" never, "triton" or "cpu" always by these.
    """

    backend = "auto"

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W'], by the plan where it serves and by `forward_reference` elsewhere."""
        backend = self.kernels_for(x)
        return self.forward_reference(x) if backend == "reference" else self._run(x, backend)

    def forward_reference(self, x: Tensor) -> Tensor:
        """The definition."""
        raise NotImplementedError

    def build_plan(self, p: PlanBuilder, x: Slice, into: Slice | None = None) -> Slice:
        """Write this block's steps down; returns where its output is, `into` where that is given. A block may do without."""
        raise NotImplementedError

    def has_plan(self) -> bool:
        """Whether there is a `build_plan`, and not that of a class whose `forward_reference` is another."""
        definers = [next(c for c in type(self).__mro__ if name in vars(c)) for name in ("build_plan", "forward_reference")]
        return definers[0] is not Block and issubclass(*definers)

    def is_plain(self) -> bool:
        """Whether steps know what comes after this block's own convolutions: SiLU or nothing."""
        return True

    def is_fused(self) -> bool | None:
        """Whether this block's own convolutions have a bias instead of BatchNorm; None where it has none of its own."""
        return None

    def prepare(self, width: int) -> Plan | None:
        """The plan for an input of `width` channels, None where a part has no step; made once."""
        if "_prepared" not in self.__dict__:
            plan, name, convs = None, "", list[Any]()
            blocks = [module for module in self.modules() if isinstance(module, Block)]
            forms = set(self._forms())
            if all(module.has_plan() and module.is_plain() for module in blocks) and len(forms) == 1:
                p = PlanBuilder(self, width, forms.pop())
                plan = p.finish(self.build_plan(p, Slice(0, 0, width)))
                name, convs = register_plan(plan), p.modules
            parts = [module for module in self.modules() if module is not self]
            self.__dict__["_prepared"] = (plan, name, convs, parts)
        return self.__dict__["_prepared"][0]  # type: ignore[no-any-return]

    def _forms(self) -> Iterator[bool]:
        """Whether each of its parts that has convolutions of its own is fused."""
        forms = (module.is_fused() for module in self.modules() if isinstance(module, Block))
        return (form for form in forms if form is not None)

    def kernels_for(self, x: Tensor) -> str:
        """The kernels that run the plan, "reference" where `forward_reference` is to run; makes the plan."""
        if x.is_meta:  # shapes alone: to be counted
            backend = self.backend if self.backend == "triton" else "reference"
        else:
            amp = torch.is_autocast_enabled(x.device.type)
            dtype = torch.get_autocast_dtype(x.device.type) if amp else x.dtype
            backend = choose("conv_bn_silu", self.backend, x.device, x.dtype == torch.float64)
            backend = "reference" if x.numel() == 0 or (backend == "cpu" and dtype == torch.float16) else backend
        if backend == "reference":
            return backend
        plan = self.prepare(x.shape[1])
        if plan is not None and plan.fused != next(self._forms()):  # fused since
            del self.__dict__["_prepared"]
            plan = self.prepare(x.shape[1])
        # A fused block on a CPU: torch's convolution with a bias in one call was measured to be as fast as the plan.
        if plan is None or (plan.fused and backend == "cpu") or not self._runs_whole():
            return "reference"
        return backend

    def _runs_whole(self) -> bool:
        """Whether nobody watches a part, and all BatchNorms train or none does: a plan has one mode and calls no module."""
        if torch.compiler.is_compiling():
            return True
        plan, _, convs, parts = self.__dict__["_prepared"]
        hooked = any(
            part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks for part in parts
        )
        return not hooked and (plan.fused or len({conv.bn.training for conv in convs}) == 1)

    def _run(self, x: Tensor, backend: str) -> Tensor:
        plan, name, convs, _ = self.__dict__["_prepared"]
        if not torch.compiler.is_compiling():
            register_plan(plan)  # the module may come from another process
        first = convs[0].conv.weight
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        elif x.dtype != first.dtype:
            raise TypeError(f"conv_bn_silu: x must be {first.dtype} as conv.weight, got {x.dtype}")
        if plan.fused:
            return planned_fused(x, [t for conv in convs for t in (conv.conv.weight, conv.conv.bias)], name, backend)
        parameters = [t for conv in convs for t in (conv.conv.weight, conv.bn.weight, conv.bn.bias)]
        running = [t for conv in convs for t in (conv.bn.running_mean, conv.bn.running_var, conv.bn.num_batches_tracked)]
        bn = convs[0].bn
        return planned(x, parameters, running, name, bn.training, _group(bn), backend)


def _group(bn: nn.Module) -> str:
    """The name of the processes that share a BatchNorm's statistics, empty for none."""
    if not (isinstance(bn, nn.SyncBatchNorm) and bn.training and dist.is_available() and dist.is_initialized()):
        return ""
    group: Any = bn.process_group or dist.group.WORLD
    return str(group.group_name) if dist.get_world_size(group) > 1 else ""


def chain(blocks: Sequence[Block], p: PlanBuilder, x: Slice, into: Slice | None = None) -> Slice:
    """One block after another, the last one into `into`."""
    for block in blocks[:-1]:
        x = block.build_plan(p, x)
    return blocks[-1].build_plan(p, x, into)
