"""Triton kernels, one file an operator: no torch.nn, no policy. `yolov9k.ops` chooses when one of them runs."""
