"""The loss in a training loop of your own: a plain torch optimizer, no trainer, batches that are drawn here."""

import argparse

import torch

import yolov9k
from yolov9k.data.synthetic import NAMES, draw_sample
from yolov9k.losses import DetectionLoss


def draw_batch(count: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [B, 3, size, size] in 0..1, RGB, and targets [N, 6]: image, class, center x, center y, width, height, in 0..1."""
    images, rows = [], []
    for number in range(count):
        sample = draw_sample((seed, 0, number), size)
        images.append(torch.from_numpy(sample.image[..., ::-1].copy()).permute(2, 0, 1) / 255)
        for label, (x1, y1, x2, y2) in zip(sample.classes.tolist(), (sample.boxes / size).tolist(), strict=True):
            rows.append([number, label, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
    return torch.stack(images), torch.tensor(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    # yolov9-t's loss rises first, without its auxiliary branch too; it takes some --steps 30 to fall.
    parser.add_argument("--model", default="gelan-t")
    parser.add_argument("--img", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()

    torch.manual_seed(0)
    model = yolov9k.create_model(args.model, num_classes=len(NAMES)).train()
    criterion = DetectionLoss(len(NAMES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    images, targets = draw_batch(args.batch, args.img, seed=0)
    for step in range(args.steps):
        optimizer.zero_grad()
        total, parts = criterion(model.branches(images), targets)  # raw maps of every branch, the main one last
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)  # as the published recipe does
        optimizer.step()
        box, classes, distribution = parts.tolist()
        print(f"step {step}: total {total.item():.3f}, box {box:.3f}, class {classes:.3f}, dfl {distribution:.3f}")


if __name__ == "__main__":
    main()
