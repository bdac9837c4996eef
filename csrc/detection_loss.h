// The detection loss of one branch on the host, value and gradient in one pass over its raw maps
// (yolov9k/ops/reference/detection_loss.py).
#pragma once

#include <cstdint>
#include <vector>

#include "dtype.h"
#include "status.h"

namespace yk {

// Raw maps, channels-last: [images, height, width, 4 * bins + classes].
struct LossLevel {
    const void* data;
    void* grad;  // as data; null: the values alone
    std::int64_t height, width;
    float stride;
};

struct LossMaps {
    std::vector<LossLevel> levels;
    Dtype dtype;  // float32 or bfloat16
    std::int64_t images, classes, bins;
};

// The assignment, over the anchors of all levels: A.
struct LossTargets {
    const std::int64_t* gt_index;  // [images, A]; -1: none
    const float* weight;           // [images, A]
    const float* weight_sum;       // [images]
    const std::int64_t* labels;    // [images, gt_count]
    const float* gt_boxes;         // [images, gt_count, 4]: corners in pixels
    std::int64_t gt_count;
};

struct LossForm {
    float smoothing, pos_weight;
    const float* factors;  // [3]: what the gradient is of, factors . parts; null without gradients
};

// What the assigner reads: boxes [images, A, 4] in pixels, and logits [images, A, classes] of the maps' dtype.
Status loss_predictions_cpu(const LossMaps& maps, float* boxes, void* logits, int threads);

// parts: [3], box, class and distribution loss.
Status detection_loss_cpu(const LossMaps& maps, const LossTargets& targets, const LossForm& form, float* parts, int threads);

}  // namespace yk
