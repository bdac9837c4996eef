// The host backend of the assigner: the math of task_aligned_assign.cuh, an image a task.
#include <algorithm>
#include <limits>
#include <vector>

#include "task_aligned_assign.cuh"
#include "threads.h"

namespace yk {

namespace {

constexpr std::int64_t kTile = 64;  // anchors that share a bounding rectangle, so that a box skips those far from it

std::vector<Box> tile_bounds(const AssignInput& in) {
    constexpr float inf = std::numeric_limits<float>::infinity();
    std::vector<Box> bounds((in.count + kTile - 1) / kTile, Box{inf, inf, -inf, -inf});
    for (std::int64_t a = 0; a < in.count; ++a) {
        const float x = in.anchors[2 * a], y = in.anchors[2 * a + 1];
        Box& tile = bounds[a / kTile];
        tile = {smaller(x, tile.x1), smaller(y, tile.y1), larger(x, tile.x2), larger(y, tile.y2)};
    }
    return bounds;
}

bool apart(const Box& a, const Box& b) { return a.x2 < b.x1 || b.x2 < a.x1 || a.y2 < b.y1 || b.y2 < a.y1; }

// Adds the claims of one box and returns the last one's key; `keys` is scratch.
template <typename T>
std::uint64_t claim(const AssignInput& in, std::int64_t image, std::int64_t g, const std::vector<Box>& tiles,
                    std::vector<std::uint64_t>& keys, std::vector<std::uint64_t>& claims) {
    const std::int64_t gt = image * in.gt_count + g;
    const Box region = box_at(in.regions, gt);
    keys.clear();
    for (std::size_t tile = 0; tile < tiles.size(); ++tile) {
        if (apart(region, tiles[tile])) continue;
        const std::int64_t first = static_cast<std::int64_t>(tile) * kTile, last = std::min(first + kTile, in.count);
        for (std::int64_t a = first; a < last; ++a) {
            if (!reaches(in, gt, a)) continue;
            if (const std::uint64_t key = claim_key<T>(in, image, gt, a)) keys.push_back(key);
        }
    }
    if (in.limits && keys.empty()) {
        std::uint64_t best = 0;
        for (std::int64_t a = 0; a < in.count; ++a) best = std::max(best, claim_key<T>(in, image, gt, a));
        if (best) keys.push_back(best);
    }
    const std::size_t taken = std::min<std::size_t>(keys.size(), in.topk);
    std::nth_element(keys.begin(), keys.begin() + taken, keys.end(), std::greater<>());
    for (std::size_t i = 0; i < taken; ++i) claims[index_of(keys[i])] += (1ull << 32) | static_cast<std::uint64_t>(g);
    return taken ? *std::min_element(keys.begin(), keys.begin() + taken) : 0;
}

template <typename T>
std::int64_t owner_of(const AssignInput& in, const std::uint64_t* least, std::int64_t image, std::int64_t anchor,
                      std::uint64_t claims) {
    if (claims >> 32 <= 1) return claims >> 32 ? static_cast<std::int64_t>(claims & 0xffffffffu) : -1;
    const Box predicted = box_at(in.boxes, image * in.count + anchor);
    std::uint64_t best = 0;
    for (std::int64_t g = 0; g < in.gt_count; ++g)
        best = std::max(best, contest_key<T>(in, least, image, anchor, predicted, g));
    return index_of(best);
}

template <typename T>
void assign_image(const AssignInput& in, const AssignOutput& out, std::int64_t image, const std::vector<Box>& tiles) {
    std::vector<std::uint64_t> claims(in.count), least(in.gt_count), keys;
    for (std::int64_t g = 0; g < in.gt_count; ++g)
        if (is_real(in, image * in.gt_count + g)) least[g] = claim<T>(in, image, g, tiles, keys, claims);
    std::vector<float> best_metric(in.gt_count), best_overlap(in.gt_count);
    std::int64_t* gt_index = out.gt_index + image * in.count;
    float* weight = out.weight + image * in.count;
    for (std::int64_t a = 0; a < in.count; ++a) {
        const std::int64_t owner = gt_index[a] = owner_of<T>(in, least.data(), image, a, claims[a]);
        weight[a] = 0.0f;
        if (owner < 0) continue;
        const std::int64_t gt = image * in.gt_count + owner;
        const float overlap = ciou(box_at(in.gt_boxes, gt), box_at(in.boxes, image * in.count + a));
        weight[a] = alignment(in, probability<T>(in, image, a, label_at(in, gt)), overlap);
        best_metric[owner] = larger(best_metric[owner], weight[a]);
        best_overlap[owner] = larger(best_overlap[owner], clamped(overlap));
    }
    double sum = 0.0;
    for (std::int64_t a = 0; a < in.count; ++a) {
        if (gt_index[a] >= 0) weight[a] = normalized(weight[a], best_metric[gt_index[a]], best_overlap[gt_index[a]]);
        sum += weight[a];
    }
    out.weight_sum[image] = static_cast<float>(sum);
}

template <typename T>
Status assign(const AssignInput& in, const AssignOutput& out, int threads) {
    const std::vector<Box> tiles = tile_bounds(in);
    return parallel_for(in.images, threads, [&](std::int64_t image) { assign_image<T>(in, out, image, tiles); });
}

}  // namespace

Status check_assign(const AssignInput& in, const AssignOutput& out) {
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
    if (in.images < 0 || in.count < 0 || in.gt_count < 0 || in.classes < 1) return bad_argument("a length is negative");
    if (in.gt_count > kMaxBoxes) return bad_argument("gt_boxes: more than 65535 boxes an image");
    if (in.count > most || in.images * in.gt_count > most || in.images > most) return bad_argument("a length is too large");
    if (in.topk < 1 || in.topk > kMaxTopk) return bad_argument("topk must be from 1 to 1024");
    if (in.images && !out.weight_sum) return bad_argument("the address of weight_sum is null");
    const bool anchors = in.images && in.count, boxes = in.images && in.gt_count;
    if (anchors && (!in.scores || !in.boxes || !in.anchors || !out.gt_index || !out.weight))
        return bad_argument("the address of an anchor's input or output is null");
    if (boxes && (!in.labels || !in.gt_boxes || !in.regions || !in.gt_mask))
        return bad_argument("the address of the boxes is null");
    return ok();
}

Status assign_cpu(const AssignInput& in, const AssignOutput& out, int threads) {
    const Status status = check_assign(in, out);
    if (status.code != kOk) return status;
    return by_dtype(in.dtype, [&](auto element) { return assign<decltype(element)>(in, out, threads); });
}

}  // namespace yk
