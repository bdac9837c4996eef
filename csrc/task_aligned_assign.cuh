// Task-aligned assignment (TOOD, arXiv 2108.07755, section 3.2): the math of both backends and the kernels.
//
// The device keeps, besides its outputs, one word an anchor and two a box: no tensor of boxes x anchors exists. Kernels:
//   claim_anchors   a block a box: its best `topk` anchors, each told of the claim
//   resolve_claims  a thread an anchor: its owner; contested anchors are settled by the whole warp
//   weigh_anchors   a block an image: metrics normalized by each box's best, and their sum
// Nothing depends on the order of threads: keys are unique, atomics only add integers or take maxima.
#pragma once

#include "task_aligned_assign.h"
#include "box.cuh"
#include "sort.cuh"

namespace yk {

template <typename T>
YK_HD float probability(const AssignInput& in, std::int64_t image, std::int64_t anchor, std::int64_t label) {
    const T* scores = static_cast<const T*>(in.scores);
    const float value = widen(scores[image * in.stride_image + anchor * in.stride_anchor + label * in.stride_class]);
    return in.logits ? static_cast<float>(1.0 / (1.0 + exp(-static_cast<double>(value)))) : value;
}

YK_HD Box box_at(const float* boxes, std::int64_t index) { return box_from(boxes + 4 * index); }

YK_HD std::int64_t label_at(const AssignInput& in, std::int64_t gt) {
    const std::int64_t label = in.labels[gt];
    return label < 0 ? 0 : label >= in.classes ? in.classes - 1 : label;
}

// Strictly inside; false for NaN.
YK_HD bool contains(const Box& box, float x, float y) {
    constexpr float eps = 1e-9f;
    return x - box.x1 > eps && y - box.y1 > eps && box.x2 - x > eps && box.y2 - y > eps;
}

// Inside or on an edge, and no side farther than `limit`; false for NaN.
YK_HD bool contains_within(const Box& box, float x, float y, float limit) {
    const float left = x - box.x1, top = y - box.y1, right = box.x2 - x, bottom = box.y2 - y;
    return left >= 0.0f && top >= 0.0f && right >= 0.0f && bottom >= 0.0f && left <= limit && top <= limit && right <= limit &&
           bottom <= limit;
}

// Whether an anchor is one that a box looks at.
YK_HD bool reaches(const AssignInput& in, std::int64_t gt, std::int64_t anchor) {
    const float x = in.anchors[2 * anchor], y = in.anchors[2 * anchor + 1];
    const Box region = box_at(in.regions, gt);
    return in.limits ? contains_within(region, x, y, in.limits[anchor]) : contains(region, x, y);
}

// Rounded once, from double, as the reference does; the paper's exponents without the general power.
YK_HD float power(float base, double exponent) {
    const double x = base;
    if (exponent == 0.5) return static_cast<float>(sqrt(x));
    if (exponent == 6.0) return static_cast<float>((x * x * x) * (x * x * x));
    return static_cast<float>(pow(x, exponent));
}

// p^alpha * max(CIoU, 0)^beta; 0 where any of it is not finite (asked for, because NaN to the power of 0 is 1), and where a
// score below 0 makes it negative: maxima are taken of the bits, among which a minus would come last.
YK_HD float alignment(const AssignInput& in, float p, float overlap) {
    if (!is_finite(p + overlap)) return 0.0f;
    const float metric = power(p, in.alpha) * power(clamped(overlap), in.beta);
    return metric > 0.0f && is_finite(metric) ? metric : 0.0f;
}

// Whether a row of the ground truth is a box: neither padding nor what is not finite.
YK_HD bool is_real(const AssignInput& in, std::int64_t gt) { return in.gt_mask[gt] && is_finite(box_at(in.gt_boxes, gt)); }

// A box's wish for an anchor: higher metric first, ties to the lowest anchor; 0 where it is none.
template <typename T>
YK_HD std::uint64_t claim_key(const AssignInput& in, std::int64_t image, std::int64_t gt, std::int64_t anchor) {
    const float overlap = ciou(box_at(in.gt_boxes, gt), box_at(in.boxes, image * in.count + anchor));
    const float metric = alignment(in, probability<T>(in, image, anchor, label_at(in, gt)), overlap);
    return metric > 0.0f ? make_key(metric, static_cast<std::uint32_t>(anchor)) : 0;
}

// Whether a box whose last claim is `least` claims an anchor. A box that looks at none claims the best of all by that key
// alone.
template <typename T>
YK_HD bool claimed(const AssignInput& in, std::int64_t image, std::int64_t gt, std::int64_t anchor, std::uint64_t least) {
    if (least == 0) return false;
    const std::uint64_t key = claim_key<T>(in, image, gt, anchor);
    return key == least || (key > least && reaches(in, gt, anchor));
}

// A contested anchor's claim on it by one box: higher overlap first, ties to the lowest box. least: of the image's boxes.
template <typename T>
YK_HD std::uint64_t contest_key(const AssignInput& in, const std::uint64_t* least, std::int64_t image, std::int64_t anchor,
                                const Box& predicted, std::int64_t g) {
    const std::int64_t gt = image * in.gt_count + g;
    if (!is_real(in, gt)) return 0;
    const Box gt_box = box_at(in.gt_boxes, gt);
    const bool competes = in.limits           ? claimed<T>(in, image, gt, anchor, least[g])
                          : in.mask_conflicts ? reaches(in, gt, anchor)
                                              : true;
    if (!competes) return 0;
    // Boxes apart have an IoU of 0 less a penalty: no need to reckon it, and most are apart.
    const float overlap = intersection(gt_box, predicted) > 0.0f ? clamped(ciou(gt_box, predicted)) : 0.0f;
    return make_key(overlap, static_cast<std::uint32_t>(g));
}

YK_HD float normalized(float metric, float best_metric, float best_overlap) {
    return metric * best_overlap / (best_metric + 1e-9f);
}

#ifdef YK_KERNELS

constexpr unsigned kAssignThreads = 128;
constexpr unsigned kWeighThreads = 512;
constexpr unsigned kBuffer = 2048;  // keys of one box held at a time; at least kMaxTopk and a round of threads

// Keeps the best `topk` of the first n keys, sorted, and returns how many there are. All threads take part.
__device__ inline unsigned trim(std::uint64_t* keys, unsigned n, unsigned topk) {
    unsigned size = 2;
    while (size < n) size *= 2;
    for (unsigned i = n + threadIdx.x; i < size; i += blockDim.x) keys[i] = 0;
    __syncthreads();
    sort_in_block(keys, size, 0);
    return n < topk ? n : topk;
}

// The best key of all anchors in keys[0], and whether there is one. All threads take part.
template <typename T>
__device__ unsigned best_of_all(const AssignInput& in, std::int64_t image, std::int64_t gt, std::uint64_t* keys) {
    std::uint64_t best = 0;
    for (std::int64_t a = threadIdx.x; a < in.count; a += blockDim.x) {
        const std::uint64_t key = claim_key<T>(in, image, gt, a);
        if (key > best) best = key;
    }
    keys[threadIdx.x] = best;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half && keys[threadIdx.x + half] > keys[threadIdx.x]) keys[threadIdx.x] = keys[threadIdx.x + half];
    }
    __syncthreads();
    return keys[0] ? 1 : 0;
}

template <typename T>
__global__ void claim_anchors(AssignInput in, AssignOutput out) {
    __shared__ std::uint64_t keys[kBuffer];
    __shared__ unsigned appended;
    const std::int64_t gt = blockIdx.x, image = gt / in.gt_count, g = gt % in.gt_count;
    if (!is_real(in, gt)) return;
    const unsigned topk = static_cast<unsigned>(in.topk);
    unsigned held = 0;          // keys in the buffer, known to every thread
    std::uint64_t threshold = 0;  // a key at or below this one can't be among the best any more
    if (threadIdx.x == 0) appended = 0;
    for (std::int64_t base = 0; base < in.count; base += blockDim.x) {
        const std::int64_t a = base + threadIdx.x;
        const bool within = a < in.count && reaches(in, gt, a);
        if (!__syncthreads_or(within)) continue;
        if (within) {
            const std::uint64_t key = claim_key<T>(in, image, gt, a);
            if (key > threshold) keys[atomicAdd(&appended, 1u)] = key;
        }
        __syncthreads();
        held = appended;  // the next round adds to it only after its first barrier
        if (held + blockDim.x > kBuffer) {
            held = trim(keys, held, topk);
            threshold = held == topk ? keys[topk - 1] : 0;
            if (threadIdx.x == 0) appended = held;
        }
    }
    if (held > topk) held = trim(keys, held, topk);
    if (in.limits && held == 0) held = best_of_all<T>(in, image, gt, keys);
    if (in.limits && held && threadIdx.x == 0) {
        out.least[gt] = keys[0];
        for (unsigned i = 1; i < held; ++i) out.least[gt] = keys[i] < out.least[gt] ? keys[i] : out.least[gt];
    }
    for (unsigned i = threadIdx.x; i < held; i += blockDim.x)
        atomicAdd(reinterpret_cast<unsigned long long*>(&out.claims[image * in.count + index_of(keys[i])]),
                  (1ull << 32) | static_cast<unsigned long long>(g));
}

// The owner of a contested anchor, found by a whole warp.
template <typename T>
__device__ std::int64_t contest(const AssignInput& in, const AssignOutput& out, std::int64_t image, std::int64_t anchor) {
    const unsigned lane = threadIdx.x % 32;
    const Box predicted = box_at(in.boxes, image * in.count + anchor);
    unsigned long long best = 0;
    for (std::int64_t g = lane; g < in.gt_count; g += 32) {
        const unsigned long long key = contest_key<T>(in, out.least + image * in.gt_count, image, anchor, predicted, g);
        if (key > best) best = key;
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        const unsigned long long other = __shfl_xor_sync(0xffffffffu, best, distance);
        if (other > best) best = other;
    }
    return index_of(best);
}

template <typename T>
__global__ void resolve_claims(AssignInput in, AssignOutput out) {
    const std::int64_t a = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const bool real = a < in.count;
    for (std::int64_t image = blockIdx.y; image < in.images; image += gridDim.y) {
        const std::int64_t place = image * in.count + a;
        const std::uint64_t claims = real ? out.claims[place] : 0;
        std::int64_t owner = claims >> 32 ? static_cast<std::int64_t>(claims & 0xffffffffu) : -1;
        for (unsigned contested = __ballot_sync(0xffffffffu, claims >> 32 > 1); contested; contested &= contested - 1) {
            const unsigned lane = __ffs(static_cast<int>(contested)) - 1;
            const std::int64_t winner = contest<T>(in, out, image, a - threadIdx.x % 32 + lane);
            if (threadIdx.x % 32 == lane) owner = winner;
        }
        if (!real) continue;
        out.gt_index[place] = owner;
        out.weight[place] = 0.0f;
        if (owner < 0) continue;
        const std::int64_t gt = image * in.gt_count + owner;
        const float overlap = ciou(box_at(in.gt_boxes, gt), box_at(in.boxes, place));
        const float metric = alignment(in, probability<T>(in, image, a, label_at(in, gt)), overlap);
        out.weight[place] = metric;
        atomicMax(&out.best_metric[gt], to_bits(metric));  // floats from 0 upwards order as their bits do
        atomicMax(&out.best_overlap[gt], to_bits(clamped(overlap)));
    }
}

__global__ void weigh_anchors(AssignInput in, AssignOutput out) {
    __shared__ double sums[kWeighThreads];
    const std::int64_t image = blockIdx.x;
    double sum = 0.0;
    for (std::int64_t a = threadIdx.x; a < in.count; a += blockDim.x) {
        const std::int64_t place = image * in.count + a, owner = out.gt_index[place];
        if (owner < 0) continue;
        const std::int64_t gt = image * in.gt_count + owner;
        const float weight = normalized(out.weight[place], from_bits(out.best_metric[gt]), from_bits(out.best_overlap[gt]));
        out.weight[place] = weight;
        sum += weight;
    }
    sums[threadIdx.x] = sum;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) out.weight_sum[image] = static_cast<float>(sums[0]);
}

#endif

}  // namespace yk
