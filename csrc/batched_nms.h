// Exact batched non-maximum suppression: what it reads, what it writes, and its two backends.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "status.h"

namespace yk {

constexpr std::uint32_t kMaxCandidates = 30000;  // of an image, the best by score
constexpr std::int64_t kMaxFiltered = 4096;      // classes, where some are asked for: their set travels as bits

struct NmsInput {
    const void* prediction;  // [B, 4 + C, A] of `dtype`: center x, y, width, height in pixels, probabilities
    std::int64_t stride_image, stride_row, stride_anchor;  // in elements
    Dtype dtype;
    std::int64_t images, classes, count;  // B, C, A
    float conf_threshold, iou_threshold;
    bool class_agnostic, multi_label, filter;
    std::int64_t max_detections;
    std::uint32_t wanted[kMaxFiltered / 32];  // with `filter`: bit c says whether class c counts
    const std::int64_t* lengths;  // [B]: columns of each image that are real, the first ones; null: all
};

// What the device keeps of an image while it looks for its best candidates.
struct NmsState {
    std::uint64_t prefix;     // leading bits of the least key that is still wanted
    std::uint64_t threshold;  // keys from here upwards compete
    std::uint32_t needed;     // keys wanted among those with this prefix
    std::uint32_t settled;    // threshold is final
    std::uint32_t taken;      // keys written
    std::uint32_t unused;
};

constexpr std::uint32_t kBins = 2048;

struct NmsOutput {
    float* detections;     // [B, max_detections, 6], zeroed by the caller
    std::int64_t* counts;  // [B]
    // Scratch, zeroed by the caller; the host backend needs none.
    NmsState* state;            // [B]
    std::uint32_t* histogram;   // [B, kBins]
    std::uint64_t* keys;        // [B, padded_candidates()]
};

// The power of two that holds an image's competing candidates.
std::int64_t padded_candidates(std::int64_t classes, std::int64_t count, bool multi_label);

Status check_nms(const NmsInput& in, const NmsOutput& out);

// Threaded over the images.
Status nms_cpu(const NmsInput& in, const NmsOutput& out, int threads);

// Enqueues on `stream` (a cudaStream_t) of the current device; allocates nothing, waits for nothing.
Status nms_cuda(const NmsInput& in, const NmsOutput& out, void* stream);

}  // namespace yk
