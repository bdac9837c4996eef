// The host backend of the suppression: the maths of nms.cuh, an image a task.
#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "nms.cuh"
#include "threads.h"

namespace yk {

namespace {

constexpr std::uint32_t kChunk = 2048;  // candidates sorted at a time: most images are full before the second
constexpr unsigned kBinShift = 49;      // a key's bin: sign, exponent and six bits of its score's mantissa

// An image's candidates in no order, and how many have a score of each bin. A thread keeps its own from image to image:
// fresh memory costs more than what is written to it.
struct Candidates {
    std::vector<std::uint64_t> keys;
    std::vector<std::uint32_t> bins, passing;

    void clear(std::size_t anchors) {
        keys.clear();
        bins.assign(1u << (64 - kBinShift), 0);
        passing.resize(anchors + 1);
    }
};

// Every class of every box, walked row by row: without a branch a score, since which pass cannot be foretold.
template <typename T>
void collect_rows(const NmsInput& in, std::int64_t image, Candidates& found) {
    std::vector<char> usable(in.count);
    for (std::int64_t a = 0; a < in.count; ++a) usable[a] = is_finite(corners<T>(in, image, a));
    for (std::int64_t label = 0; label < in.classes; ++label) {
        if (!is_wanted(in, label)) continue;
        const T* row = static_cast<const T*>(in.prediction) + image * in.stride_image + (4 + label) * in.stride_row;
        std::uint32_t* next = found.passing.data();
        for (std::int64_t a = 0; a < in.count; ++a) {
            *next = static_cast<std::uint32_t>(a);
            next += passes(in, widen(row[a])) & usable[a];
        }
        for (const std::uint32_t* a = found.passing.data(); a != next; ++a)
            found.keys.push_back(make_key(widen(row[*a]), candidate_number(in, *a, label)));
    }
}

template <typename T>
void collect(const NmsInput& in, std::int64_t image, Candidates& found) {
    if (in.multi_label && in.stride_anchor == 1) return collect_rows<T>(in, image, found);
    for (std::int64_t a = 0; a < in.count; ++a)
        each_candidate<T>(in, image, a, [&](std::uint64_t key) { found.keys.push_back(key); });
}

// Moves the next best candidates, whole bins of them and at least kChunk unless fewer are left, into `chunk`, sorted.
// `bin` is the lowest bin taken so far.
void next_chunk(const Candidates& found, std::size_t& bin, std::vector<std::uint64_t>& chunk) {
    const std::size_t above = bin;
    std::uint32_t count = 0;
    while (bin > 0 && count < kChunk) count += found.bins[--bin];
    chunk.clear();
    for (const std::uint64_t key : found.keys)
        if (key >> kBinShift >= bin && key >> kBinShift < above) chunk.push_back(key);
    std::sort(chunk.begin(), chunk.end(), std::greater<>());
}

// Appends a candidate to the image's detections unless a kept one suppresses it.
template <typename T>
bool keep(const NmsInput& in, std::int64_t image, std::uint64_t key, std::vector<std::vector<Box>>& kept, float* row) {
    const std::int64_t number = index_of(key), label = number % in.classes;
    const Box box = corners<T>(in, image, number / in.classes);
    std::vector<Box>& rivals = kept[in.class_agnostic ? 0 : label];
    for (const Box& other : rivals)
        if (overlaps(in, other, box)) return false;
    rivals.push_back(box);
    const float values[6] = {box.x1, box.y1, box.x2, box.y2, score_of(key), static_cast<float>(label)};
    std::copy(values, values + 6, row);
    return true;
}

template <typename T>
void suppress_image(const NmsInput& in, const NmsOutput& out, std::int64_t image) {
    thread_local Candidates found;
    found.clear(in.count);
    collect<T>(in, image, found);
    for (const std::uint64_t key : found.keys) ++found.bins[key >> kBinShift];
    std::vector<std::vector<Box>> kept(in.class_agnostic ? 1 : in.classes);  // by class: others are no rivals
    std::vector<std::uint64_t> chunk;
    std::uint32_t competing = 0;
    std::int64_t count = 0;
    for (std::size_t bin = found.bins.size(); bin > 0;) {
        next_chunk(found, bin, chunk);
        for (const std::uint64_t key : chunk) {
            if (count == in.max_detections || competing++ == kMostCandidates) return void(out.counts[image] = count);
            count += keep<T>(in, image, key, kept, out.detections + (image * in.max_detections + count) * 6);
        }
    }
    out.counts[image] = count;
}

template <typename T>
void suppress_all(const NmsInput& in, const NmsOutput& out, int threads) {
    parallel_for(in.images, threads, [&](std::int64_t image) { suppress_image<T>(in, out, image); });
}

}  // namespace

std::int64_t padded_candidates(std::int64_t classes, std::int64_t count, bool multi_label) {
    const std::int64_t most = std::min<std::int64_t>(multi_label ? classes * count : count, kMostCandidates);
    std::int64_t padded = 2;
    while (padded < most) padded *= 2;
    return padded;
}

Status check_nms(const NmsInput& in, const NmsOutput& out) {
    constexpr std::int64_t most = std::numeric_limits<std::uint32_t>::max();
    if (in.images < 0 || in.count < 0 || in.classes < 1) return bad_argument("a length is negative");
    if (in.count > most / in.classes) return bad_argument("prediction: more than 2^32 - 1 scores an image");
    if (in.images > 65535) return bad_argument("prediction: more than 65535 images");
    if (in.filter && in.classes > kMostFiltered) return bad_argument("classes: a filter serves at most 4096 classes");
    if (in.max_detections < 1) return bad_argument("max_detections must be at least 1");
    if (in.images && (!out.detections || !out.counts)) return bad_argument("the address of an output is null");
    if (in.images && in.count && !in.prediction) return bad_argument("the address of the prediction is null");
    return ok();
}

Status nms_cpu(const NmsInput& in, const NmsOutput& out, int threads) {
    const Status status = check_nms(in, out);
    if (status.code != kOk) return status;
    if (in.dtype == Dtype::kFloat32) suppress_all<float>(in, out, threads);
    if (in.dtype == Dtype::kBFloat16) suppress_all<BFloat16>(in, out, threads);
    if (in.dtype == Dtype::kFloat16) suppress_all<Half>(in, out, threads);
    return ok();
}

}  // namespace yk
