// Exact batched non-maximum suppression: the math of both backends and the kernels.
//
// A candidate is one key of 64 bits: its score, and its number (anchor * classes + class) so that ties go to the lowest.
// Work for N = anchors * classes scores, M competing candidates, K kept ones, all images in one sequence of launches:
//   tally_keys, settle_digit   radix selection of the best 30,000: O(N) a digit of 11 bits; the first is nearly always the last
//   gather_keys                O(N) the selected keys, in any order
//   sort_tiles, exchange_far, merge_tiles   bitonic sort, O(M log^2 M)
//   suppress                   a block an image, O(M K / 512): candidates against the kept, then among themselves
// Keys are unique and atomics only count, so the result does not depend on the order of threads.
#pragma once

#include "box.cuh"
#include "batched_nms.h"
#include "sort.cuh"

namespace yk {

template <typename T>
YK_HD float entry(const NmsInput& in, std::int64_t image, std::int64_t row, std::int64_t anchor) {
    const T* prediction = static_cast<const T*>(in.prediction);
    return widen(prediction[image * in.stride_image + row * in.stride_row + anchor * in.stride_anchor]);
}

template <typename T>
YK_HD Box corners(const NmsInput& in, std::int64_t image, std::int64_t anchor) {
    const float x = entry<T>(in, image, 0, anchor), y = entry<T>(in, image, 1, anchor);
    const float half_w = entry<T>(in, image, 2, anchor) / 2.0f, half_h = entry<T>(in, image, 3, anchor) / 2.0f;
    return {x - half_w, y - half_h, x + half_w, y + half_h};
}

// Columns of an image's prediction that hold something.
YK_HD std::int64_t length_of(const NmsInput& in, std::int64_t image) {
    if (!in.lengths) return in.count;
    const std::int64_t length = in.lengths[image];
    return length < 0 ? 0 : length < in.count ? length : in.count;
}

YK_HD bool is_wanted(const NmsInput& in, std::int64_t label) {
    return !in.filter || (in.wanted[label / 32] >> (label % 32) & 1u);
}

// A finite score above the threshold; NaN is neither.
YK_HD bool passes(const NmsInput& in, float score) { return score > in.conf_threshold && is_finite(score); }

YK_HD std::uint32_t candidate_number(const NmsInput& in, std::int64_t anchor, std::int64_t label) {
    return static_cast<std::uint32_t>(anchor * in.classes + label);
}

// Calls use(key) for each candidate of one anchor.
template <typename T, typename Use>
YK_HD void each_candidate(const NmsInput& in, std::int64_t image, std::int64_t anchor, const Use& use) {
    float best = in.conf_threshold;
    std::int64_t best_label = -1;
    bool checked = false;
    for (std::int64_t label = 0; label < in.classes; ++label) {
        const float score = entry<T>(in, image, 4 + label, anchor);
        if (!passes(in, score)) continue;
        if (!checked && !is_finite(corners<T>(in, image, anchor))) return;
        checked = true;
        if (in.multi_label) {
            if (is_wanted(in, label)) use(make_key(score, candidate_number(in, anchor, label)));
        } else if (score > best) {
            best = score;
            best_label = label;
        }
    }
    if (best_label >= 0 && is_wanted(in, best_label)) use(make_key(best, candidate_number(in, anchor, best_label)));
}

YK_HD bool overlaps(const NmsInput& in, const Box& a, const Box& b) { return iou(a, b) > in.iou_threshold; }

#ifdef YK_KERNELS

constexpr unsigned kDigit = 11;  // bits of a radix digit: kBins of them
constexpr unsigned kScanThreads = 256;
constexpr unsigned kTileKeys = 4096;  // sorted in shared memory
constexpr unsigned kSuppressThreads = 512;

// The first bit of digit `level`: 53, 42, 31, 20, 9, 0 (the last digit has 9 bits).
__device__ __forceinline__ unsigned digit_shift(unsigned level) { return level < 5 ? 64 - kDigit * (level + 1) : 0; }
__device__ __forceinline__ unsigned digit_bits(unsigned level) { return level < 5 ? kDigit : 9; }

template <typename T>
__global__ void tally_keys(NmsInput in, NmsOutput out, unsigned level) {
    __shared__ unsigned bins[kBins];
    const std::int64_t image = blockIdx.y, a = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const NmsState& state = out.state[image];
    if (state.settled) return;
    for (unsigned bin = threadIdx.x; bin < kBins; bin += blockDim.x) bins[bin] = 0;
    __syncthreads();
    const unsigned shift = digit_shift(level), bits = digit_bits(level);
    const std::uint64_t prefix = state.prefix;
    if (a < length_of(in, image))
        each_candidate<T>(in, image, a, [&](std::uint64_t key) {
            const bool member = level == 0 || key >> (shift + bits) == prefix;
            if (member) atomicAdd(&bins[key >> shift & ((1u << bits) - 1)], 1u);
        });
    __syncthreads();
    for (unsigned bin = threadIdx.x; bin < kBins; bin += blockDim.x)
        if (bins[bin]) atomicAdd(&out.histogram[image * kBins + bin], bins[bin]);
}

// Finds the digit in which the last wanted key lies; clears the histogram for the next digit.
__global__ void settle_digit(NmsOutput out, unsigned level) {
    __shared__ unsigned sums[kScanThreads];
    constexpr unsigned each = kBins / kScanThreads;
    NmsState& state = out.state[blockIdx.x];
    const bool settled = state.settled;
    const unsigned needed = level == 0 ? kMostCandidates : state.needed, t = threadIdx.x;
    std::uint32_t* histogram = out.histogram + static_cast<std::int64_t>(blockIdx.x) * kBins + t * each;
    unsigned mine[each], sum = 0, above = 0, total = 0;
    for (unsigned i = 0; i < each; ++i) {
        sum += mine[i] = histogram[i];
        histogram[i] = 0;
    }
    sums[t] = sum;
    __syncthreads();  // everyone has read the state too
    if (settled) return;
    for (unsigned other = 0; other < kScanThreads; ++other) {
        total += sums[other];
        if (other > t) above += sums[other];
    }
    if (total <= needed) {  // all of them, which happens at the first digit alone
        if (t == 0) state.settled = 1;
        return;
    }
    if (above >= needed || above + sum < needed) return;
    unsigned bin = each;
    while (above + mine[--bin] < needed) above += mine[bin];
    const unsigned shift = digit_shift(level);
    state.prefix = state.prefix << digit_bits(level) | (t * each + bin);
    state.threshold = state.prefix << shift;
    state.needed = needed - above;
    state.settled = mine[bin] == state.needed || shift == 0;
}

template <typename T>
__global__ void gather_keys(NmsInput in, NmsOutput out, std::int64_t padded) {
    __shared__ unsigned found, base;
    const std::int64_t image = blockIdx.y, a = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const std::uint64_t threshold = out.state[image].threshold;
    unsigned mine = 0;
    if (threadIdx.x == 0) found = 0;
    __syncthreads();
    if (a < length_of(in, image)) each_candidate<T>(in, image, a, [&](std::uint64_t key) { mine += key >= threshold; });
    const unsigned offset = mine ? atomicAdd(&found, mine) : 0;
    __syncthreads();
    if (threadIdx.x == 0) base = found ? atomicAdd(&out.state[image].taken, found) : 0;
    __syncthreads();
    if (mine == 0) return;
    std::uint64_t* place = out.keys + image * padded + base + offset;
    each_candidate<T>(in, image, a, [&](std::uint64_t key) {
        if (key >= threshold) *place++ = key;
    });
}

// Sorts tiles of `size` keys, alternately down and up; with `run` beyond `size` it ends that stage of the merge instead.
__global__ void sort_tiles(NmsOutput out, std::int64_t padded, unsigned size, unsigned run) {
    __shared__ std::uint64_t tile[kTileKeys];
    const unsigned taken = out.state[blockIdx.y].taken, start = blockIdx.x * size;
    const bool merging = run > size;
    if (taken <= (merging ? run / 2 : start)) return;  // in order already: what lies past the keys is all zeros
    std::uint64_t* keys = out.keys + blockIdx.y * padded + start;
    for (unsigned i = threadIdx.x; i < size; i += blockDim.x) tile[i] = keys[i];
    __syncthreads();
    if (merging)
        merge_in_block(tile, size, start, run, size / 2);
    else
        sort_in_block(tile, size, start);
    for (unsigned i = threadIdx.x; i < size; i += blockDim.x) keys[i] = tile[i];
}

// One exchange between keys further apart than a tile.
__global__ void exchange_far(NmsOutput out, std::int64_t padded, unsigned run, unsigned distance) {
    if (out.state[blockIdx.y].taken <= run / 2) return;
    const unsigned pair = blockIdx.x * blockDim.x + threadIdx.x;
    if (pair >= padded / 2) return;
    const unsigned i = 2 * pair - (pair & (distance - 1));
    std::uint64_t* keys = out.keys + blockIdx.y * padded;
    exchange(keys[i], keys[i + distance], (i & run) == 0);
}

// The lowest thread whose vote is set, or kSuppressThreads; `votes` alternates so that one barrier is enough.
__device__ inline unsigned first_vote(bool vote, unsigned* votes) {
    const unsigned word = __ballot_sync(0xffffffffu, vote);
    if (threadIdx.x % 32 == 0) votes[threadIdx.x / 32] = word;
    __syncthreads();
    for (unsigned i = 0; i < kSuppressThreads / 32; ++i)
        if (votes[i]) return i * 32 + __ffs(static_cast<int>(votes[i])) - 1;
    return kSuppressThreads;
}

YK_HD bool rivals(const NmsInput& in, const Box& a, float label_a, const Box& b, float label_b) {
    return (in.class_agnostic || label_a == label_b) && overlaps(in, a, b);
}

template <typename T>
__global__ void suppress(NmsInput in, NmsOutput out, std::int64_t padded) {
    __shared__ Box boxes[kSuppressThreads];
    __shared__ float labels[kSuppressThreads];
    __shared__ unsigned votes[2][kSuppressThreads / 32];
    const std::int64_t image = blockIdx.x;
    const unsigned taken = out.state[image].taken, t = threadIdx.x;
    float* rows = out.detections + image * in.max_detections * 6;
    std::int64_t kept = 0;
    unsigned turn = 0;
    for (unsigned start = 0; start < taken && kept < in.max_detections; start += kSuppressThreads) {
        bool alive = start + t < taken;
        const std::uint64_t key = alive ? out.keys[image * padded + start + t] : 0;
        const std::int64_t number = alive ? index_of(key) : 0;
        const Box box = corners<T>(in, image, number / in.classes);
        const float label = static_cast<float>(number % in.classes);
        for (std::int64_t k = 0; k < kept && alive; ++k)
            alive = !rivals(in, box_from(rows + 6 * k), rows[6 * k + 5], box, label);
        boxes[t] = box;
        labels[t] = label;
        for (unsigned first; kept < in.max_detections; ++kept) {
            if ((first = first_vote(alive, votes[turn++ % 2])) == kSuppressThreads) break;
            if (first == t) {
                float* row = rows + 6 * kept;
                row[0] = box.x1, row[1] = box.y1, row[2] = box.x2, row[3] = box.y2;
                row[4] = score_of(key), row[5] = label;
                alive = false;
            }
            alive = alive && !rivals(in, boxes[first], labels[first], box, label);
        }
        __syncthreads();  // rows are written and boxes read before the next candidates take their place
    }
    if (t == 0) out.counts[image] = kept;
}

#endif

}  // namespace yk
