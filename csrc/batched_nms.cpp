// The host backend of the suppression: the math of batched_nms.cuh, an image a task.
#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "batched_nms.cuh"
#include "threads.h"

namespace yk {

namespace {

constexpr std::int64_t kSampled = 32;                  // one score in so many is looked at first
constexpr std::size_t kRanks[] = {64, 512};            // of the sample: some 2,000 and 16,000 candidates lie above
constexpr float kLargest = std::numeric_limits<float>::max();

// Scores at which the candidates are cut into chunks, falling to the confidence threshold. An image mostly has all its
// detections after the first chunk, so that the others are never gathered, let alone sorted.
template <typename T>
std::vector<float> cuts(const NmsInput& in, std::int64_t image) {
    std::vector<float> sample;
    for (std::int64_t label = 0; label < in.classes && in.multi_label; ++label)
        for (std::int64_t a = label % kSampled; a < in.count; a += kSampled)
            if (const float score = entry<T>(in, image, 4 + label, a); passes(in, score)) sample.push_back(score);
    std::vector<float> found;
    for (const std::size_t rank : kRanks) {
        if (rank >= sample.size()) break;
        std::nth_element(sample.begin(), sample.begin() + rank, sample.end(), std::greater<>());
        found.push_back(sample[rank]);
    }
    found.push_back(in.conf_threshold);
    return found;
}

// Calls use(i) for each of `length` scores above `lower` and up to `upper`. They are compared without a branch, which the
// compiler turns into vector instructions, and then skipped eight at a time.
template <typename T, typename Use>
void each_between(const T* scores, std::int64_t length, float lower, float upper, std::vector<char>& flags, const Use& use) {
    flags.resize((length + 7) / 8 * 8);
    char* __restrict flag = flags.data();  // a char may alias anything; this one does not
    for (std::int64_t i = 0; i < length; ++i) flag[i] = (widen(scores[i]) > lower) & (widen(scores[i]) <= upper);
    std::fill(flag + length, flag + flags.size(), 0);
    for (std::int64_t first = 0; first < length; first += 8) {
        std::uint64_t word;
        std::memcpy(&word, flag + first, sizeof word);
        for (std::int64_t i = first; word; word >>= 8, ++i)
            if (word & 1) use(i);
    }
}

// The keys of all candidates whose scores lie above `lower` and up to `upper`. Scores are walked as they lie in memory:
// by class, or by anchor where one box's classes are neighbors.
template <typename T>
void gather(const NmsInput& in, std::int64_t image, float lower, float upper, std::vector<std::uint64_t>& keys) {
    thread_local std::vector<char> flags;
    const T* scores = static_cast<const T*>(in.prediction) + image * in.stride_image + 4 * in.stride_row;
    const auto add = [&](std::int64_t anchor, std::int64_t label, float score) {
        if (is_wanted(in, label) && is_finite(corners<T>(in, image, anchor)))
            keys.push_back(make_key(score, candidate_number(in, anchor, label)));
    };
    if (in.stride_row == 1)
        for (std::int64_t a = 0; a < in.count; ++a) {
            const T* line = scores + a * in.stride_anchor;
            each_between(line, in.classes, lower, upper, flags, [&](std::int64_t c) { add(a, c, widen(line[c])); });
        }
    else
        for (std::int64_t c = 0; c < in.classes; ++c) {
            const T* line = scores + c * in.stride_row;
            if (is_wanted(in, c))
                each_between(line, in.count, lower, upper, flags, [&](std::int64_t a) { add(a, c, widen(line[a])); });
        }
}

// The key of each box's best class, all boxes at once, class by class.
template <typename T>
void gather_best(const NmsInput& in, std::int64_t image, std::vector<std::uint64_t>& keys) {
    std::vector<float> best(in.count, in.conf_threshold);
    std::vector<std::int32_t> labels(in.count, -1);
    for (std::int32_t c = 0; c < in.classes; ++c) {
        const T* line = static_cast<const T*>(in.prediction) + image * in.stride_image + (4 + c) * in.stride_row;
        for (std::int64_t a = 0; a < in.count; ++a) {
            const float score = widen(line[a]);
            const bool better = (score > best[a]) & (score <= kLargest);
            best[a] = better ? score : best[a];
            labels[a] = better ? c : labels[a];
        }
    }
    for (std::int64_t a = 0; a < in.count; ++a)
        if (labels[a] >= 0 && is_wanted(in, labels[a]) && is_finite(corners<T>(in, image, a)))
            keys.push_back(make_key(best[a], candidate_number(in, a, labels[a])));
}

template <typename T>
void collect(const NmsInput& in, std::int64_t image, float lower, float upper, std::vector<std::uint64_t>& keys) {
    keys.clear();
    if (in.multi_label) return gather<T>(in, image, lower, upper, keys);
    if (in.stride_row != 1) return gather_best<T>(in, image, keys);
    for (std::int64_t a = 0; a < in.count; ++a)
        each_candidate<T>(in, image, a, [&](std::uint64_t key) { keys.push_back(key); });
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
void suppress_image(NmsInput in, const NmsOutput& out, std::int64_t image) {
    in.count = length_of(in, image);
    thread_local std::vector<std::uint64_t> keys;  // kept from image to image: fresh memory costs more than filling it
    std::vector<std::vector<Box>> kept(in.class_agnostic ? 1 : in.classes);  // by class: others are no rivals
    std::ptrdiff_t competing = kMaxCandidates;
    std::int64_t count = 0;
    float upper = kLargest;
    for (const float lower : cuts<T>(in, image)) {
        if (count == in.max_detections || competing == 0) break;
        collect<T>(in, image, lower, upper, keys);
        const auto last = keys.begin() + std::min<std::ptrdiff_t>(keys.size(), competing);
        std::nth_element(keys.begin(), last, keys.end(), std::greater<>());
        std::sort(keys.begin(), last, std::greater<>());
        for (auto key = keys.begin(); key != last && count < in.max_detections; ++key)
            count += keep<T>(in, image, *key, kept, out.detections + (image * in.max_detections + count) * 6);
        competing -= last - keys.begin();
        upper = lower;
    }
    out.counts[image] = count;
}

template <typename T>
Status suppress_all(const NmsInput& in, const NmsOutput& out, int threads) {
    return parallel_for(in.images, threads, [&](std::int64_t image) { suppress_image<T>(in, out, image); });
}

}  // namespace

std::int64_t padded_candidates(std::int64_t classes, std::int64_t count, bool multi_label) {
    const std::int64_t most = std::min<std::int64_t>(multi_label ? classes * count : count, kMaxCandidates);
    std::int64_t padded = 2;
    while (padded < most) padded *= 2;
    return padded;
}

Status check_nms(const NmsInput& in, const NmsOutput& out) {
    constexpr std::int64_t most = std::numeric_limits<std::uint32_t>::max();
    if (in.images < 0 || in.count < 0 || in.classes < 1) return bad_argument("a length is negative");
    if (in.count > most / in.classes) return bad_argument("prediction: more than 2^32 - 1 scores an image");
    if (in.images > 65535) return bad_argument("prediction: more than 65535 images");
    if (in.filter && in.classes > kMaxFiltered) return bad_argument("classes: a filter serves at most 4096 classes");
    if (in.max_detections < 1) return bad_argument("max_detections must be at least 1");
    if (in.images && (!out.detections || !out.counts)) return bad_argument("the address of an output is null");
    if (in.stride_row != 1 && in.stride_anchor != 1 && in.count > 1)
        return bad_argument("prediction: neither its rows nor its anchors are contiguous");
    if (in.images && in.count && !in.prediction) return bad_argument("the address of the prediction is null");
    return ok();
}

Status nms_cpu(const NmsInput& in, const NmsOutput& out, int threads) {
    const Status status = check_nms(in, out);
    if (status.code != kOk) return status;
    return by_dtype(in.dtype, [&](auto element) { return suppress_all<decltype(element)>(in, out, threads); });
}

}  // namespace yk
