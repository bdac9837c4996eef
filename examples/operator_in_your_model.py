"""One operator in a model of your own: exact NMS of a whole batch, by name of backend, behind any detector's raw output."""

import argparse

import torch
from torch import nn

from yolov9k import ops


class TinyDetector(nn.Module):
    """Stands for your model: a prediction [B, 4 + classes, A] for every cell of a grid."""

    def __init__(self, classes: int, stride: int = 16) -> None:
        super().__init__()
        self.stride = stride
        self.body = nn.Conv2d(3, 4 + classes, stride, stride)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.body(images)
        rows, columns = maps.shape[-2:]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centers = (torch.stack((x, y)).to(maps) + 0.5) * self.stride
        sizes = (maps[:, 2:4].sigmoid() + 0.5) * 3 * self.stride
        return torch.cat((centers.expand_as(sizes), sizes, maps[:, 4:].sigmoid()), 1).flatten(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="auto", help="auto, reference, or what `yolov9k info` lists for batched_nms")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--img", type=int, default=128)
    args = parser.parse_args()

    torch.manual_seed(0)
    model = TinyDetector(classes=3).eval()
    with torch.no_grad():
        prediction = model(torch.rand(args.images, 3, args.img, args.img))
        kept = ops.batched_nms(prediction, 0.25, 0.45, max_detections=20, backend=args.backend)
        exact = ops.batched_nms(prediction, 0.25, 0.45, max_detections=20, backend="reference")
    for number, count in enumerate(kept.counts.tolist()):
        print(f"image {number}: {prediction.shape[2]} candidates, {count} kept, best {kept.detections[number, 0].tolist()}")
    print("equal to the reference:", torch.equal(kept.detections, exact.detections))


if __name__ == "__main__":
    main()
