"""Every tolerance of the test suite, each with its reason. A tolerance stands nowhere else."""

import torch

# Fixtures are stored as float32; a float64 model agrees with them to their own rounding, summed over a deep network.
FORWARD = 1e-5
# LibreYOLO computes its anchors and strides in float32 even where weights and maps are float64.
LIBREYOLO = 5e-5
# Two implementations' float32 through some hundred layers, as a share of the largest value: sums in another order.
PEERS = 1e-4
# The published loss was computed in float32; its sums over anchors carry float32 rounding.
LOSS_VALUE = 1e-5
LOSS_GRADIENT = 1e-4
# The loss of a float32 forward pass, whose rounding BatchNorm over 4 images amplifies.
TRAJECTORY = 1e-4
# Runs in float32 scatter around the exact trajectory; two of them are a small sample of how far.
ROUNDING_CLOUD = 4
# COCO AP is printed with five digits.
COCO_AP = 5e-6
# On a GPU the areas are contracted into fused multiply-adds: a few units in the last place of a float32.
NATIVE_IOU_CUDA = 1e-5
# Pixel coordinates of some hundred to thousand in float32.
PIXEL_ROUNDING = 1e-3
# A warped rectangle's edge is blended over two pixels, half intensity decides which of them still counts.
LABEL_EDGE = 1.0
# A pasted object's outline is drawn with OpenCV's rounding, which widens it by up to a pixel, and is then warped.
PASTED_EDGE = 2.0
# The shorter side is rounded to whole pixels, half a pixel of the resized image at most; the rest is float32.
LETTERBOX_PIXELS = 0.51
# JPEG quantises, decoders of two resolutions round differently: levels of 255.
JPEG_LEVELS = 3
# Bilinear with weights of 11 bits, rounded (OpenCV), against float32: levels of 255.
RESIZE_LEVELS = 1
# Mean over an image, of which a JPEG decoder's reduced scale and the mean of cells make something a little different; so do
# decoders of other libraries. Levels of 255.
ALIASED_LEVELS = 2.0
# COCO outlines and boxes of one object were drawn separately; they differ by a few pixels of some hundreds.
OUTLINE_TO_BOX = 0.02
# A warp by a millionth of the image, in float32: a hundredth of a pixel of 96.
BOX_SHARE = 1e-4
# Anchors of metric 0, that the published top-k claims in an arbitrary order, move the crowded case by 1e-4.
TIED_TOPK = 2e-4
# Loops over Python floats add and multiply in another order than torch does in float64.
FLOAT64_LOOPS = {"rtol": 1e-9, "atol": 1e-12}
# The lean model runs the same kernels on the same values; threads may split sums in other places.
LEAN = 1e-6
# Folding BatchNorm into float64 weights rounds each once more; some tens of layers and 64-pixel coordinates.
FUSED = 1e-9
# A float32 variance comes back from its reciprocal root less eps: some units in the last place of variance + eps.
FUSED_FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}
# Gradients of bfloat16 maps are rounded to eight bits, at most half a unit in the last place.
BFLOAT16_MAPS = {"rtol": 2**-8, "atol": 1e-30}
# float64 steps against numpy: sums over parameters and images in another order.
STEP_BY_HAND = {"rtol": 1e-9, "atol": 1e-12}
# Two float64 backward passes added, against one over both halves: convolutions sum in another order.
ACCUMULATED = {"rtol": 1e-9, "atol": 1e-12}
# Softmax over 16 bins in another order and with another exponential: a few units in the last place of a float32.
DFL_FLOAT32 = {"rtol": 2e-5, "atol": 2e-4}
# Where torch's own error happens to be nothing, a few units in the last place of a float32 are still another order of sums.
FUSED_RELATIVE = 1e-6
# A mean is kept in float32: half a unit of its last place, times a slope near 1, is beyond anyone's power.
MEAN_ROUNDING = 2**-24
# A tile of 4,096 rows is summed in float32 by halves: 12 such roundings, most of which cancel.
TILE_ROUNDING = 8 * MEAN_ROUNDING
# Kernels compute in float32 and round once: some units in the last place of float32, one of what is stored.
ROUNDED = {
    torch.float32: {"rtol": 1e-5, "atol": 2e-5},
    torch.bfloat16: {"rtol": 2**-7, "atol": 1e-3},
    torch.float16: {"rtol": 2**-10, "atol": 1e-3},
}
# Products of matrices: float32 sums of some tens of terms near 1 in another order; one rounding of what is stored, and of
# what is recomputed on the way in.
PRODUCT = {
    torch.float32: {"rtol": 2e-5, "atol": 5e-5},
    torch.bfloat16: {"rtol": 2**-6, "atol": 2**-5},
    torch.float16: {"rtol": 2**-9, "atol": 2**-8},
}
# Triton's interpreter cuts float32 off to bfloat16 where a GPU rounds: up to a unit in the last place, always to one side.
CUT_OFF = 2**-8
# Activations of up to 8 that are recomputed and rounded, or cut off so that all errors have one sign, summed over up to
# 243 pixels with gradients near 1; float32 tells whether the sums are right.
RECOMPUTED = {
    torch.float32: PRODUCT[torch.float32],
    torch.bfloat16: {"rtol": 2**-6, "atol": 2**-2},
    torch.float16: {"rtol": 2**-9, "atol": 2**-5},
}
# A tile's mean near 10,000 is rounded to 5e-4; distances between tiles' means near 0.1 carry that into the variance.
LARGE_MEAN = {"rtol": 2e-4, "atol": 0.0}
# Hundreds of layers amplify float32's rounding; another order of sums gives another error of
# the order of torch's own, and every step of training multiplies it.
END_TO_END = 10
# In low precision an error against float64 may be twice that of torch's own operators in the same precision (docs/proof.md).
LOW_PRECISION = 2
# Statistics are merged over processes from float64 means and deviations; another order of sums.
SYNCHRONIZED = {"rtol": 1e-8, "atol": 1e-10}
# A float32 optimizer step fuses multiply-adds and sums squares in another order: some units in the last place
# of terms near 1, which may cancel.
SGD_FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}
# Sums over anchors and classes in another order, an arc tangent of the kernel's own: float32's rounding of many terms.
LOSS_FLOAT32 = {"rtol": 2e-5, "atol": 1e-5}
LOSS_KERNEL_GRADIENT = {"rtol": 2e-4, "atol": 2e-5}
# A sigmoid and a logarithm in float32 without cancellation, a few units in the last place of each, however small.
CLASS_GRADIENT = {"rtol": 2e-6, "atol": 1e-12}
# A recorded step launches what the eager one does; a library may choose another kernel for a convolution, whose last bits
# a few steps of training amplify.
CAPTURED = {"rtol": 1e-2, "atol": 1e-3}
# COCO results carry three digits of a pixel and five of a score; the last may be rounded the other way.
JSON_BOX = 1.001e-3
JSON_SCORE = 1.001e-5
# An untrained model's detections tie within rounding; another order of them moves its average precision, near 0, by little.
AVERAGE_PRECISION = 0.02
# OpenCV turns HSV into BGR in float32, by vector instructions in rows of some length and otherwise without, which differ by
# a level in a quarter of all values; the operator rounds the exact value. Levels of 255.
HSV_LEVELS = 1
# Shares of an image's sides from some tens of float32 operations on pixels, against Python's floats; cancellation by tilts.
FLOAT32_COORDINATES = {"rtol": 1e-4, "atol": 1e-4}
# OpenCV and the operator round positions to grids of their own (at most 1/32 pixel) and weights too. On images a level
# of 255 on average is beyond that; at sharp edges and at the border, where gray begins, it is some levels.
OPENCV_MEAN = 0.5
OPENCV_LEVELS = 4
# Pixels: float32 against float64 matrices, at coordinates of some hundreds, multiplied by a scale of up to two.
OPENCV_BOXES = 2e-3
# A record of bench/baselines rounds milliseconds to three digits after the point and images a second to two; six digits of
# an AP in results.csv, and of a box in a YOLO label.
RECORDED_RATE = 1e-2
RECORDED_AP = 1e-5
LABEL_DIGITS = 2e-6
# float32's rounding through the 291 layers of yolov9-t's first step, at 4 images of 320 pixels: 3e-4 at the median of the
# parameters wherever sums are precise, 2.2e-3 where those of BatchNorm were naive.
FIRST_STEP_MEDIAN = 1e-3
FIRST_STEP_NORM = 1e-3
# Sums over 67,000 anchors and 80 classes, and over 25 million parameters, in float32 by trees or in double: some units in
# the last place; one after another they would lose three digits.
LOSS_AT_SIZE = 2e-5
NORM_AT_SIZE = 1e-6
# Another kernel in float32 over some layers, as a share of a tensor's length: BatchNorm over few values amplifies rounding.
ACCELERATED = 1e-4
# Two float32 losses, each a sum over anchors and classes in an order of its own.
PEER_LOSS = 1e-4
# Ten optimizer steps that sum the gradient's norm in another order, whose length each weight is divided by.
PEER_STEP = {torch.float32: {"rtol": 2e-5, "atol": 2e-6}, torch.float64: {"rtol": 1e-9, "atol": 1e-12}}
# Two epochs of float32 steps from equal weights, whose losses differ by rounding alone.
PEER_TRAINING = 1e-2
# Pixels of decoded boxes in images of 96: float32 through 200 layers whose sums run in another order; seen 8e-5.
PEER_PIXELS = 1e-3
# csrc/conv3x3.cpp against float64, as a part of the sum of the terms' magnitudes, the largest of those results that share the
# products of a tile: sums of up to thousands of float32 terms, then of sixteen such sums that partly cancel.
MINIMAL_FILTERING = 1e-6
# A block's plan on a CPU against its definition in float64, as a part of each result's largest value: a dozen layers deep.
PLAN_FLOAT32 = 3e-5
PLAN_BFLOAT16 = 0.1
