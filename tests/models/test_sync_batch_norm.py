"""BatchNorm's statistics over several processes: two with half a batch each are as one with the whole."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from tests.plan_cases import as_triton, randomized, use_plain_kernels
from tests.tolerances import SYNCHRONIZED
from yolov9k.models import blocks
from yolov9k.models.block import Block

WORLD = 2


def block_and_batch() -> tuple[Block, Tensor, Tensor]:
    block = randomized(lambda: blocks.RepNCSPELAN4(4, 6, 8, 4), True)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 4, 5, 4, generator=generator, dtype=torch.float64)  # two images for one process, one for the other
    return block, x, torch.randn(3, 6, 5, 4, generator=generator, dtype=torch.float64)


def run(rank: int, folder: str) -> None:
    import pytest

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    block, x, cotangent = block_and_batch()
    block = as_triton(nn.SyncBatchNorm.convert_sync_batchnorm(block))  # type: ignore[arg-type]
    part = slice(0, 2) if rank == 0 else slice(2, 3)
    with pytest.MonkeyPatch.context() as patch:
        use_plain_kernels(patch)
        leaf = x[part].clone().requires_grad_()
        y = block(leaf)
        y.backward(cotangent[part])
    grads = {name: parameter.grad for name, parameter in block.named_parameters()}
    torch.save((y.detach(), leaf.grad, grads, dict(block.state_dict())), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.e2e
def test_two_processes_are_one_batch(tmp_path: Path) -> None:
    mp.spawn(run, (str(tmp_path),), nprocs=WORLD)  # type: ignore[no-untyped-call]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]
    block, x, cotangent = block_and_batch()
    twin, leaf = copy.deepcopy(block), x.clone().requires_grad_()
    y = twin.forward_reference(leaf)
    y.backward(cotangent)
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), y.detach(), **SYNCHRONIZED)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), leaf.grad, **SYNCHRONIZED)
    for name, parameter in twin.named_parameters():  # each process has its own share, which DistributedDataParallel adds
        torch.testing.assert_close(sum(part[2][name] for part in parts), parameter.grad, **SYNCHRONIZED)
    for part in parts:
        torch.testing.assert_close(part[3], dict(twin.state_dict()), **SYNCHRONIZED)
