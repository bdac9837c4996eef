// Task-aligned assignment: what it reads, what it writes, and its two backends (TOOD, arXiv 2108.07755, section 3.2).
#pragma once

#include <cstdint>

#include "dtype.h"
#include "status.h"

namespace yk {

// Everything but the scores is contiguous. Lengths: B images, A anchors, G boxes, C classes.
struct AssignInput {
    const void* scores;  // [B, A, C] of `dtype`, strides in elements below
    std::int64_t stride_image, stride_anchor, stride_class;
    Dtype dtype;
    bool logits;                // scores are logits, not probabilities
    const float* boxes;         // [B, A, 4] predicted corners, pixels
    const float* anchors;       // [A, 2] pixels
    const std::int64_t* labels;  // [B, G]
    const float* gt_boxes;      // [B, G, 4] corners, pixels
    const float* regions;       // [B, G, 4] where a box looks for anchors: gt_boxes, or those with small sides grown
    const std::uint8_t* gt_mask;  // [B, G], 0: padding
    const float* limits;        // [A] pixels that an anchor reaches to each side, as the MIT rewrite matches; or null
    std::int64_t images, count, gt_count, classes;
    int topk;
    double alpha, beta;
    bool mask_conflicts;  // only boxes that contain a contested anchor compete for it
};

struct AssignOutput {
    std::int64_t* gt_index;  // [B, A], -1: background
    float* weight;           // [B, A] normalized target score
    float* weight_sum;       // [B]
    // Scratch, zeroed by the caller; the host backend needs none.
    std::uint64_t* claims;         // [B, A]
    std::uint32_t* best_metric;    // [B, G]
    std::uint32_t* best_overlap;   // [B, G]
    std::uint64_t* least;          // [B, G] the last key that a box claims by, where there are limits
};

constexpr int kMaxTopk = 1024;
constexpr std::int64_t kMaxBoxes = 65535;  // an anchor's claims are summed in one word of 64 bits

Status check_assign(const AssignInput& in, const AssignOutput& out);

// Threaded over the images.
Status assign_cpu(const AssignInput& in, const AssignOutput& out, int threads);

// Enqueues on `stream` (a cudaStream_t) of the current device; allocates nothing, waits for nothing.
Status assign_cuda(const AssignInput& in, const AssignOutput& out, void* stream);

}  // namespace yk
