"""Define an operator as this package does, outside of it: a reference, a registration, a gradient, a choice of backend.

The operator is SiLU(x) * gate. What follows a definition is its proof: equality with the reference, gradcheck, opcheck.
Inside the package the same parts stand in files of one name: docs/recipes/operator.md.
"""

import argparse

import torch
from torch import Tensor

LIBRARY = torch.library.Library("yolov9k_example", "DEF")
LIBRARY.define("gated_silu(Tensor x, Tensor gate, str backend) -> Tensor")


def reference(x: Tensor, gate: Tensor) -> Tensor:
    """The definition: plain torch, any floating dtype."""
    return x * torch.sigmoid(x) * gate


def in_place(x: Tensor, gate: Tensor) -> Tensor:
    """Stands for the fast kernel: one buffer, reused."""
    return torch.sigmoid(x).mul_(x).mul_(gate)


BACKENDS = {"reference": reference, "inplace": in_place}


def gated_silu(x: Tensor, gate: Tensor, backend: str = "auto") -> Tensor:
    """SiLU(x) * gate, elementwise; x and gate of one shape. Raises ValueError naming the argument."""
    if x.shape != gate.shape:
        raise ValueError(f"gated_silu: gate must be {list(x.shape)}, got {list(gate.shape)}")
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"gated_silu: backend must be auto, {', '.join(BACKENDS)}, got {backend!r}")
    return torch.ops.yolov9k_example.gated_silu(x, gate, "inplace" if backend == "auto" else backend)


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])


def _differentiate(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    x, gate = ctx.saved_tensors
    share = torch.sigmoid(x)
    return grad * gate * share * (1 + x * (1 - share)), grad * x * share, None


LIBRARY.impl("gated_silu", lambda x, gate, backend: BACKENDS[backend](x, gate), "CompositeExplicitAutograd")
torch.library.register_fake("yolov9k_example::gated_silu", lambda x, gate, backend: torch.empty_like(x), lib=LIBRARY)
torch.library.register_autograd("yolov9k_example::gated_silu", _differentiate, setup_context=_save, lib=LIBRARY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=16)
    size = parser.parse_args().size

    torch.manual_seed(0)
    x, gate = (torch.randn(size, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.testing.assert_close(gated_silu(x, gate), reference(x, gate))
    print("equal to the reference")
    torch.autograd.gradcheck(gated_silu, (x, gate))
    print("gradcheck passed")
    torch.library.opcheck(torch.ops.yolov9k_example.gated_silu.default, (x, gate, "inplace"))
    print("opcheck passed")


if __name__ == "__main__":
    main()
