"""Cases of the CUDA kernels that run on the host and on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.ops.simt.cases import AssignCase, NmsCase
from tests.support import assign_case, grid_strides, nms_prediction
from yolov9k.ops.reference.batched_nms import batched_nms
from yolov9k.ops.reference.task_aligned_assign import task_aligned_assign

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def assign_cases() -> list[AssignCase]:
    """Few boxes and many, more claims than a block holds at a time, ties, contests, what is not finite, nothing at all."""
    cases = [
        AssignCase(*assign_case(seed=n, images=2, boxes=n, size=96, classes=3, dtype=DTYPES[n % 3]), logits=n % 2 == 1)
        for n in (0, 1, 2, 33, 64, 65)
    ]
    cases += [AssignCase(*assign_case(7, 1, 20, 96, 2)[:6], topk=k, mask_conflicts=k == 3) for k in (1, 3, 1000)]
    cases += [
        AssignCase(*case, mask_conflicts=True, small_side=20.0, grown_side=26.0) for case in [assign_case(6, 2, 30, 96, 2)]
    ]
    for reach in (0.5, 2.0, 14.99):  # boxes that no anchor reaches; many contests
        limits = grid_strides(96) * reach
        cases.append(AssignCase(*assign_case(14, 2, 40, 96, 2), topk=3 if reach == 2 else 10, limits=limits))
    one = assign_case(8, 1, 1, 512, 1, spread=600.0)  # 5376 anchors, nearly all inside: the buffer is trimmed on the way
    cases += [AssignCase(*one[:4], torch.tensor([[[0.0, 0, 512, 512]]]), one[5]), AssignCase(*one[:6], topk=1024)]
    tied = assign_case(9, 2, 6, 64, 1)
    cases.append(AssignCase(torch.full_like(tied[0], 0.5), *tied[1:3], tied[3], tied[4][:, :1].expand(-1, 6, -1), tied[5]))
    odd = assign_case(10, 2, 9, 64, 2)
    nan, inf = float("nan"), float("inf")
    for tensor, values in ((odd[0], (nan, -1.0)), (odd[1], (nan, inf, 1e30)), (odd[4], (inf,))):
        for i, value in enumerate(values):
            tensor.view(-1)[i :: 11 + i] = value
    cases.append(AssignCase(*odd, beta=0.0, alpha=0.0))
    cases.append(AssignCase(*odd, alpha=1.0, beta=4.5))
    minus = assign_case(12, 2, 9, 64, 2)
    minus[0][:, ::3], minus[0][:, 1::3] = -0.0, -0.3
    cases += [AssignCase(*minus), AssignCase(*minus, alpha=1.0)]
    bare = tuple(part[:, :0] if i < 2 else part[:0] if i == 2 else part for i, part in enumerate(minus))  # no anchors
    return [*cases, AssignCase(*bare), AssignCase(*assign_case(11, 0, 4, 64, 2))]


def nms_cases() -> list[NmsCase]:
    """One label and many, filters, ties, what is not finite, nothing, and more candidates than may compete."""
    cases = []
    for seed in range(6):
        prediction = nms_prediction(seed, images=2, classes=1 + 2 * seed, anchors=40 + 97 * seed, dtype=DTYPES[seed % 3])
        classes = [0] if seed == 4 else None
        cases.append(NmsCase(prediction, 0.1, 0.45, classes, seed % 2 == 1, seed % 3 != 0, (1, 30, 700)[seed % 3]))
    tied = nms_prediction(7, 1, 3, 600)
    tied[:, 4:] = 0.5
    odd = nms_prediction(8, 1, 2, 90)
    odd[0, 0, ::7], odd[0, 2, ::5], odd[0, 4, ::3], odd[0, 5, ::11] = float("nan"), float("inf"), float("inf"), float("nan")
    cases += [NmsCase(tied, 0.1, 0.3, multi_label=True, max_detections=50), NmsCase(odd, 0.01, 0.5, multi_label=True)]
    short = nms_prediction(10, 3, 4, 300)
    cases.append(NmsCase(short, 0.1, 0.45, multi_label=True, lengths=torch.tensor([0, 170, 900])))
    cases += [NmsCase(odd, 0.01, 0.5), NmsCase(odd, 0.999, 0.5), NmsCase(odd[:0], 0.1, 0.5)]
    return cases


def crowded_cases() -> list[NmsCase]:
    """More candidates than the 30,000 that compete: with scores all apart, and with so many alike that places decide."""
    prediction = nms_prediction(9, 1, 40, 800)
    prediction[:, 4:] = torch.rand(prediction[:, 4:].shape, generator=torch.Generator().manual_seed(9))
    alike = prediction.clone()
    alike[:, 4:] = torch.where(alike[:, 4:] > 0.9, 0.9, 0.25)
    return [NmsCase(image, 0.001, 0.1, multi_label=True, max_detections=20) for image in (prediction, alike)]


def expected(case: AssignCase | NmsCase) -> tuple[Tensor, ...]:
    """What the reference makes of a case."""
    if isinstance(case, NmsCase):
        return batched_nms(*case)
    return task_aligned_assign(*case[:6], case.options, case.logits, case.limits)
