"""accelerate_training on what trains others' models: assigners, suppression, trainers that make their parts late."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from tests.compat import lookalikes
from tests.compat.lookalikes import (
    SteppingTrainer,
    TheirAssigner,
    TheirDetectionLoss,
    TheirLoss,
    TheirModel,
    TheirTrainer,
    TheirValidator,
)
from tests.support import assign_case, nms_prediction
from tests.tolerances import PEER_LOSS
from yolov9k import accelerate_training
from yolov9k.common.errors import UserError
from yolov9k.compat.accelerate.assigner import options_of
from yolov9k.compat.accelerate.swap import Swapped
from yolov9k.ops import AssignOptions


@pytest.mark.parametrize("contests", [False, True])
@pytest.mark.parametrize("small", [0.0, 16.0])
def test_an_assigners_habits_are_found_out(contests: bool, small: float) -> None:
    wanted = AssignOptions(10, 0.5, 6.0, contests, small, small)
    assert options_of(TheirAssigner(contests, small)) == (wanted, 5)


def test_an_assigner_with_another_rule_is_left() -> None:
    class Halved(TheirAssigner):
        def forward(self, *tensors: torch.Tensor) -> object:
            label, box, target, *rest = super().forward(*tensors)
            return label, box, target / 2, *rest

    for assigner in (Halved(), TheirAssigner(topk2=1)):
        loss = TheirLoss()
        loss.assigner = assigner
        found = accelerate_training(lookalikes, loss)
        assert "assigns otherwise than ours" in found.left["assigner"]
        assert not isinstance(loss.assigner, Swapped)
        found.restore()


def test_an_accelerated_assigner_gives_the_same() -> None:
    scores, boxes, anchors, labels, gt_boxes, mask = assign_case(3, 2, 9, 96, 3)
    case = (scores, boxes, anchors, labels[..., None], gt_boxes, mask[..., None])
    loss = TheirLoss()
    wanted = loss.assigner(*case)
    with accelerate_training(loss) as found:
        assert found.replaced == {"assigner": "assigner"}
        for a, b in zip(loss.assigner(*case), wanted, strict=True):
            torch.testing.assert_close(a, b.to(a.dtype))
        twin = copy.deepcopy(loss)
        assert isinstance(twin.assigner, Swapped)
        assert type(pickle.loads(pickle.dumps(loss)).assigner) is TheirAssigner
    assert type(loss.assigner) is TheirAssigner


def test_a_loss_is_replaced_whole_and_obeys_its_gains() -> None:
    generator = torch.Generator().manual_seed(4)
    sizes, loss = (8, 4, 2), TheirDetectionLoss()
    predictions = {name: torch.randn(2, width, 84, generator=generator) for name, width in (("boxes", 64), ("scores", 3))}
    predictions["feats"] = [torch.zeros(2, 1, size, size) for size in sizes]
    boxes = torch.rand(6, 4, generator=generator) * 0.3 + 0.1
    batch = {"batch_idx": torch.tensor([0.0, 0, 0, 1, 1, 1]), "cls": torch.tensor([0.0, 1, 2, 0, 1, 2]), "bboxes": boxes}
    with accelerate_training(loss) as found:
        assert found.replaced == {"TheirDetectionLoss": "loss", "assigner": "assigner"}
        assert isinstance(copy.deepcopy(loss), Swapped)
        loss.hyp.box = 3.0
        value, parts = loss(predictions, batch)
    wanted, wanted_parts = loss(predictions, batch)
    torch.testing.assert_close(value, wanted, rtol=PEER_LOSS, atol=PEER_LOSS)
    torch.testing.assert_close(parts, wanted_parts, rtol=PEER_LOSS, atol=PEER_LOSS)
    assert accelerate_training(TheirDetectionLoss(smoothing=0.1)).left == {
        "TheirDetectionLoss": "TheirDetectionLoss: another loss than ours"
    }


def test_suppression_is_ours_where_ours_has_what_is_asked_for() -> None:
    original, prediction = lookalikes.non_max_suppression, nms_prediction(0, 2, 3, 200)
    wanted = TheirValidator().postprocess(prediction)
    with accelerate_training(TheirValidator()) as found:
        assert found.replaced == {"tests.compat.lookalikes.non_max_suppression": "suppression"}
        assert lookalikes.non_max_suppression is not original
        calls = torch.ops.yolov9k.batched_nms
        with torch.profiler.profile() as trace:
            torch.testing.assert_close(TheirValidator().postprocess(prediction), wanted)
        assert str(calls.default).removesuffix(".default").replace(".", "::") in {event.name for event in trace.events()}
        with torch.profiler.profile() as trace:
            lookalikes.non_max_suppression(prediction, 0.1, 0.5, labels=(torch.zeros(1, 5),))
        assert not any("yolov9k" in event.name for event in trace.events())
    assert lookalikes.non_max_suppression is original


def test_a_trainer_is_looked_through_when_it_starts() -> None:
    trainer = TheirTrainer()
    with accelerate_training(trainer) as found:
        assert found.replaced == {}
        trainer.train()
        assert found.replaced["model.model.0"] == "Conv"
        assert found.replaced["criterion.assigner"] == "assigner"
        assert "tests.compat.lookalikes.non_max_suppression" in found.replaced
        assert isinstance(trainer.model.model[0], Swapped)
    assert not isinstance(trainer.model.model[0], Swapped)
    assert trainer.callbacks == {"on_train_start": []}


def test_what_holds_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="accelerate_training: found nothing to accelerate in object"):
        accelerate_training(object())


def test_accelerating_twice_is_accelerating_once() -> None:
    loss = TheirLoss()
    for part in (loss, lookalikes, SteppingTrainer(TheirModel())):
        with accelerate_training(part) as found:
            assert found.replaced
            assert accelerate_training(part).replaced == {}
        assert accelerate_training(part).replaced.keys() == found.replaced.keys()
        accelerate_training(part).restore()


def test_why_nothing_was_found_is_told() -> None:
    trainer = SteppingTrainer(torch.nn.Linear(2, 2), torch.optim.AdamW)
    with pytest.raises(UserError, match=r"in SteppingTrainer \(.*optimizer_step: AdamW: only torch's SGD is replaced"):
        accelerate_training(trainer)


def matching(loss: lookalikes.TheirMatchingLoss) -> tuple[torch.Tensor, ...]:
    assert loss.matcher is not None
    generator = torch.Generator().manual_seed(4)
    anchors = len(loss.matcher.anchor_grid)
    corner = torch.rand(2, 7, 2, generator=generator) * 100
    boxes = torch.cat((corner, corner + torch.rand(2, 7, 2, generator=generator) * 120 + 1), -1)
    near = torch.randint(7, (2, anchors, 1), generator=generator).expand(-1, -1, 4)
    predicted = boxes.gather(1, near) + torch.randn(2, anchors, 4, generator=generator) * 4
    target = torch.cat((torch.randint(0, 3, (2, 7, 1), generator=generator), boxes), -1)
    return loss.matcher(target, (torch.randn(2, anchors, 3, generator=generator), predicted), return_indices=True)


def test_the_matchers_that_a_loss_makes_are_ours() -> None:
    loss = lookalikes.TheirMatchingLoss()
    loss._init_vec2box([160, 160])
    wanted = matching(loss)
    with accelerate_training(loss) as found:
        assert sorted(found.replaced) == ["TheirMatchingLoss.matcher", "tests.compat.lookalikes.TheirMatcher"]
        for ours, theirs in zip(matching(loss), wanted, strict=True):
            torch.testing.assert_close(ours, theirs)
        loss._init_vec2box([96, 128])  # another size of images
        assert isinstance(loss.matcher, lookalikes.TheirMatcher)
        assert isinstance(vars(type(loss.matcher))["original"], type)
    assert type(loss.matcher).__mro__[1] is object
    loss._init_vec2box([160, 160])
    assert type(loss.matcher).__mro__[1] is object
    fresh = lookalikes.TheirMatchingLoss()  # that has not seen an image yet
    with accelerate_training(fresh) as found:
        assert list(found.replaced) == ["tests.compat.lookalikes.TheirMatcher"]
        assert fresh.matcher is None


def test_a_matcher_that_keeps_its_grid_elsewhere_and_one_of_another_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = lookalikes.TheirMatchingLoss()
    loss._init_vec2box([160, 160])
    assert loss.matcher is not None
    wanted = matching(loss)
    loss.matcher = lookalikes.TheirOtherMatcher(loss.matcher.anchor_grid, loss.matcher.scaler)
    with accelerate_training(loss):
        assert torch.equal(matching(loss)[1], wanted[1])
    monkeypatch.setattr(lookalikes.TheirMatcher, "reg_max", 5)  # the same rule within a shorter reach: found out as well
    with accelerate_training(loss):
        pass
    monkeypatch.setattr(lookalikes.TheirMatcher, "__call__", lambda self, target, predict: (target, target))
    with pytest.raises(UserError, match="found nothing to accelerate in TheirMatchingLoss"):
        accelerate_training(loss)
