// Objects of augmented images: outlines moved, cut off, filtered (yolov9k/ops/augment_boxes.py, the definition).
#pragma once

#include <cstdint>

#include "status.h"

namespace yk {

// All contiguous. B images, N objects, P points.
struct AugmentBoxesInput {
    const float* points;        // [P, 2]
    const std::int64_t* ends;   // [N] one past the last point of each outline
    const std::int64_t* classes;  // [N]
    const float* min_area_ratio;  // [N] fraction of the area that must stay, below 0: all is kept
    const std::int64_t* ranges;  // [B, 2, 2] first object of each view, one past its last
    const float* matrices;       // [B, 2, 3, 3] from the canvas to the image
    std::int64_t point_count, objects, images, height, width, capacity;
};

struct AugmentBoxesOutput {
    float* boxes;          // [B, capacity, 5], zeroed by the caller
    std::int64_t* counts;  // [B]
};

Status check_augment_boxes(const AugmentBoxesInput& in, const AugmentBoxesOutput& out);

Status augment_boxes_cpu(const AugmentBoxesInput& in, const AugmentBoxesOutput& out, int threads);

// Outlines one after another, each of `lengths` points.
struct ClipInput {
    const float* points;          // [point_count, 2]
    const std::int64_t* lengths;  // [objects]
    std::int64_t point_count, objects;
    std::int64_t room;  // points that fit into the output; what is beyond is counted, not written
    float width, height;
};

struct ClipOutput {
    float* points;          // [room, 2]
    std::int64_t* lengths;  // [objects] of what is left of each
    float* boxes;           // [objects, 4] its hull, zeros where nothing is left
};

// Outlines clipped to 0..width x 0..height (yolov9k/ops/reference/augment_boxes.py, the definition).
Status clip_outlines(const ClipInput& in, const ClipOutput& out);

}  // namespace yk
