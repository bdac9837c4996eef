// Images for training: layers on canvases seen through matrices, mixed, recolored (yolov9k/ops/augment.py, the definition).
#pragma once

#include <cstdint>

#include "status.h"

namespace yk {

// An image at a whole pixel of the canvas, and its mask; a row of the table as torch has it.
struct Layer {
    std::int64_t start, height, width, left, top;
    std::int64_t mask;               // -1: opaque everywhere
    std::int64_t stride, mask_stride;  // bytes from a row to the next
};

// Memory that holds images, rows of BGR pixels, and masks, rows of bytes.
struct Source {
    const std::uint8_t* bytes;
    std::int64_t count;
};

// All contiguous. B images.
struct AugmentInput {
    const Source* sources;  // a layer's start and mask count through all of them, each layer lies in one, its mask in one
    std::int64_t source_count;
    const Layer* layers;
    std::int64_t layer_count;
    const std::int64_t* ranges;  // [B, 2, 2] first layer of each view, one past its last
    const float* matrices;       // [B, 2, 3, 3] from pixels to the canvas
    const float* mix_weights;    // [B] of the first view
    const float* hsv_gains;      // [B, 3] of hue, saturation, value
    std::int64_t images, height, width;
};

struct AugmentOutput {
    void* images;
    int element;         // bytes of one: 1, 2 or 4
    const void* levels;  // [256] what each 8-bit value becomes
    std::int64_t stride_image, stride_channel, stride_row, stride_pixel;  // elements
};

constexpr std::int64_t kMaxPlace = 1 << 18;  // sides and places of layers stay below

// Threaded over the images.
Status augment_cpu(const AugmentInput& in, const AugmentOutput& out, int threads);

}  // namespace yk
