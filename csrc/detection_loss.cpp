// The host backend of the detection loss: an anchor's channels are neighbors, so that its classes and bins are vectors.
#include "detection_loss.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "box.cuh"
#include "clones.h"
#include "elements.h"
#include "threads.h"

namespace yk {

namespace {

constexpr std::int64_t kTile = 128;  // anchors of a task: their partial sums are merged in order
constexpr float kEps = 1e-7f;        // as in the reference's box_ciou

// Neighboring anchors of one image and level; `first` is where the level begins among all anchors.
struct Tile {
    const LossLevel* level;
    std::int64_t image, begin, end, first;
};

std::int64_t anchors_of(const LossMaps& maps) {
    std::int64_t total = 0;
    for (const LossLevel& level : maps.levels) total += level.height * level.width;
    return total;
}

std::vector<Tile> tiles_of(const LossMaps& maps) {
    std::vector<Tile> tiles;
    std::int64_t first = 0;
    for (const LossLevel& level : maps.levels) {
        const std::int64_t count = level.height * level.width;
        for (std::int64_t image = 0; image < maps.images; ++image)
            for (std::int64_t begin = 0; begin < count; begin += kTile)
                tiles.push_back({&level, image, begin, std::min(count, begin + kTile), first});
        first += count;
    }
    return tiles;
}

// log(1 + t) for t in 0..1: twice the series of the inverse hyperbolic tangent of t / (2 + t), which is a third at most.
YK_INLINE float log1p_unit(float t) {
    const float s = t / (2.0f + t), q = s * s;
    float p = 1.0f / 15.0f;
    p = p * q + 1.0f / 13.0f;
    p = p * q + 1.0f / 11.0f;
    p = p * q + 1.0f / 9.0f;
    p = p * q + 1.0f / 7.0f;
    p = p * q + 0.2f;
    p = p * q + 1.0f / 3.0f;
    return 2.0f * (s + s * (q * p));
}

// Binary cross entropy of `count` classes with one target, and its gradient times `scale`. No term is the difference of two
// large ones: most logits are far below zero.
template <bool Gradient, typename T>
YK_INLINE void cross_entropy(const T* logits, std::int64_t count, float target, float pos_weight, float scale, float* values,
                             T* grad) {
    const float rest = 1.0f - target, hit = pos_weight * target, factor = rest + hit;
    for (std::int64_t i = 0; i < count; ++i) {
        const float x = load(logits[i]), size = x < 0.0f ? -x : x;
        const float tail = exponential(-size);
        values[i] = factor * log1p_unit(tail) + size * (x < 0.0f ? hit : rest);
        if (Gradient) store(grad[i], (factor * ((x < 0.0f ? tail : 1.0f) / (1.0f + tail)) - hit) * scale);
    }
}

// The softmax of one side's bins: e^(bin - largest), their sum, and the expected distance in strides.
struct Side {
    float largest, sum, expected;
};

template <typename T>
YK_INLINE Side softmax(const T* bins, std::int64_t count, float* powers) {
    float largest = load(bins[0]);
    for (std::int64_t i = 1; i < count; ++i) {
        const float bin = load(bins[i]);
        largest = bin > largest ? bin : largest;
    }
    for (std::int64_t i = 0; i < count; ++i) powers[i] = exponential(load(bins[i]) - largest);
    float sum = 0.0f, weighted = 0.0f;
    for (std::int64_t i = 0; i < count; ++i) {
        sum += powers[i];
        weighted += powers[i] * static_cast<float>(i);
    }
    return {largest, sum, weighted / sum};
}

// A clone is made of a plain function only, one for each dtype.
#define YK_LOSS_PASSES(T)                                                                                              \
    YK_CLONES void run_cross_entropy(const T* logits, std::int64_t count, float target, float pos_weight, float scale, \
                                     float* values, T* grad) {                                                         \
        grad ? cross_entropy<true>(logits, count, target, pos_weight, scale, values, grad)                             \
             : cross_entropy<false>(logits, count, target, pos_weight, scale, values, grad);                           \
    }                                                                                                                  \
    YK_CLONES void run_softmax(const T* bins, std::int64_t count, Side* sides, float* powers) {                        \
        for (int side = 0; side < 4; ++side) sides[side] = softmax(bins + side * count, count, powers + side * count); \
    }
YK_LOSS_PASSES(float)
YK_LOSS_PASSES(BFloat16)
#undef YK_LOSS_PASSES

// Overlap of two intervals and the extent of both together, with derivatives by the first one's ends; ties are halved.
struct Interval {
    float overlap, overlap1, overlap2, hull, hull1, hull2;

    Interval(float a1, float a2, float b1, float b2) {
        const auto first_larger = [](float a, float b) { return a > b ? 1.0f : a == b ? 0.5f : 0.0f; };
        const float length = std::min(a2, b2) - std::max(a1, b1), there = length >= 0.0f ? 1.0f : 0.0f;
        const float one = first_larger(a1, b1), two = first_larger(b2, a2);
        overlap = std::max(length, 0.0f);
        overlap1 = -one * there;
        overlap2 = two * there;
        hull = std::max(a2, b2) - std::min(a1, b1);
        hull1 = one - 1.0f;
        hull2 = 1.0f - two;
    }
};

// Complete IoU (arXiv 2005.03572, eq. 10) and its derivatives by a's corners; the aspect's weight is held constant.
struct Ciou {
    float value, x1, y1, x2, y2;

    Ciou(const float* a, const float* b) {
        const float wa = a[2] - a[0], ha = a[3] - a[1] + kEps, wb = b[2] - b[0], hb = b[3] - b[1] + kEps;
        const Interval w(a[0], a[2], b[0], b[2]), h(a[1], a[3], b[1], b[3]);
        const float common = w.overlap * h.overlap, whole = wa * ha + wb * hb - common + kEps, iou = common / whole;
        const float diagonal = w.hull * w.hull + h.hull * h.hull + kEps;
        const float sx = b[0] + b[2] - a[0] - a[2], sy = b[1] + b[3] - a[1] - a[3];
        const float distance = (sx * sx + sy * sy) / 4.0f;
        const float angle = arc_tangent(wb / hb) - arc_tangent(wa / ha);
        const float aspect = static_cast<float>(4.0 / (M_PI * M_PI)) * (angle * angle);
        const float weight = aspect / (aspect - iou + static_cast<float>(1.0 + 1e-7));
        const float turn = weight * static_cast<float>(8.0 / (M_PI * M_PI)) * angle / (wa * wa + ha * ha);
        const float far = distance / (diagonal * diagonal) * 2.0f;
        value = iou - (distance / diagonal + weight * aspect);
        x1 = (w.overlap1 * h.overlap * (1.0f + iou) + ha * iou) / whole + sx / 2.0f / diagonal + far * w.hull * w.hull1 -
             turn * ha;
        x2 = (w.overlap2 * h.overlap * (1.0f + iou) - ha * iou) / whole + sx / 2.0f / diagonal + far * w.hull * w.hull2 +
             turn * ha;
        y1 = (h.overlap1 * w.overlap * (1.0f + iou) + wa * iou) / whole + sy / 2.0f / diagonal + far * h.hull * h.hull1 +
             turn * wa;
        y2 = (h.overlap2 * w.overlap * (1.0f + iou) - wa * iou) / whole + sy / 2.0f / diagonal + far * h.hull * h.hull2 -
             turn * wa;
    }
};

struct Parts {
    double box = 0.0, cls = 0.0, dfl = 0.0;
};

// What one task works with.
template <typename T>
struct Branch {
    const LossMaps& maps;
    const LossTargets& targets;
    const LossForm& form;
    std::int64_t anchors;
    float scale;  // 1 / max(sum of target scores, 1)
    std::vector<float> values, powers;

    Branch(const LossMaps& maps, const LossTargets& targets, const LossForm& form, std::int64_t anchors, float scale)
        : maps(maps),
          targets(targets),
          form(form),
          anchors(anchors),
          scale(scale),
          values(maps.classes),
          powers(4 * maps.bins) {}

    Parts over(const Tile& tile) {
        Parts parts;
        const std::int64_t channels = 4 * maps.bins + maps.classes, size = tile.level->height * tile.level->width;
        for (std::int64_t cell = tile.begin; cell < tile.end; ++cell) {
            const std::int64_t row = (tile.image * size + cell) * channels, anchor = tile.image * anchors + tile.first + cell;
            const T* map = static_cast<const T*>(tile.level->data) + row;
            T* grad = tile.level->grad ? static_cast<T*>(tile.level->grad) + row : nullptr;
            const std::int64_t owner = targets.gt_index[anchor];
            const std::int64_t mine = tile.image * targets.gt_count + owner;
            parts.cls += classes(map + 4 * maps.bins, grad ? grad + 4 * maps.bins : nullptr,
                                 owner < 0 ? -1 : targets.labels[mine], targets.weight[anchor]);
            if (owner >= 0)
                box(tile, cell, map, grad, targets.gt_boxes + 4 * mine, targets.weight[anchor], parts);
            else if (grad)
                std::memset(static_cast<void*>(grad), 0, 4 * maps.bins * sizeof(T));
        }
        return parts;
    }

    double classes(const T* logits, T* grad, std::int64_t label, float weight) {
        const float background = 0.5f * form.smoothing, factor = grad ? scale * form.factors[1] : 0.0f;
        run_cross_entropy(logits, maps.classes, background, form.pos_weight, factor, values.data(), grad);
        if (label >= 0)
            run_cross_entropy(logits + label, 1, weight * (1.0f - form.smoothing) + background, form.pos_weight, factor,
                              values.data() + label, grad ? grad + label : nullptr);
        double sum = 0.0;
        for (const float value : values) sum += static_cast<double>(value);
        return sum;
    }

    void box(const Tile& tile, std::int64_t cell, const T* bins, T* grad, const float* truth, float weight, Parts& parts) {
        Side sides[4];
        run_softmax(bins, maps.bins, sides, powers.data());
        const float x = static_cast<float>(cell % tile.level->width) + 0.5f,
                    y = static_cast<float>(cell / tile.level->width) + 0.5f;
        const float mine[4] = {x - sides[0].expected, y - sides[1].expected, x + sides[2].expected, y + sides[3].expected};
        float target[4];
        for (int side = 0; side < 4; ++side) target[side] = truth[side] / tile.level->stride;
        const Ciou ciou(mine, target);
        parts.box += static_cast<double>((1.0f - ciou.value) * weight);
        const float slopes[4] = {ciou.x1, ciou.y1, -ciou.x2, -ciou.y2};
        const float distances[4] = {x - target[0], y - target[1], target[2] - x, target[3] - y};
        const float by_box = grad ? weight * scale * form.factors[0] : 0.0f;
        const float by_dfl = grad ? weight * scale * form.factors[2] * 0.25f : 0.0f;
        float entropy = 0.0f;
        for (int side = 0; side < 4; ++side) {
            const std::int64_t first = side * maps.bins;
            entropy += distribution(bins + first, powers.data() + first, sides[side], distances[side],
                                    grad ? grad + first : nullptr, by_box * slopes[side], by_dfl);
        }
        parts.dfl += static_cast<double>(entropy * 0.25f * weight);
    }

    // Cross entropy of one side with the two bins around `distance`; its gradient and the box loss's by the expected distance.
    float distribution(const T* bins, const float* powers, const Side& side, float distance, T* grad, float by_box,
                       float by_dfl) {
        const float most = static_cast<float>(maps.bins - 1) - 0.01f;
        distance = std::min(std::max(distance, 0.0f), most);
        const std::int64_t left = distance == distance ? static_cast<std::int64_t>(distance) : 0;
        const float right_share = distance - static_cast<float>(left), left_share = 1.0f - right_share;
        for (std::int64_t i = 0; grad && i < maps.bins; ++i) {
            const float target = i == left ? left_share : i == left + 1 ? right_share : 0.0f, share = powers[i] / side.sum;
            store(grad[i], (share - target) * by_dfl + share * (static_cast<float>(i) - side.expected) * by_box);
        }
        const float missed =
            left_share * (side.largest - load(bins[left])) + right_share * (side.largest - load(bins[left + 1]));
        return std::log(side.sum) + missed;
    }
};

template <typename T>
Status predict(const LossMaps& maps, float* boxes, void* logits, int threads) {
    const std::vector<Tile> tiles = tiles_of(maps);
    const std::int64_t anchors = anchors_of(maps), channels = 4 * maps.bins + maps.classes;
    return parallel_for(static_cast<std::int64_t>(tiles.size()), threads, [&](std::int64_t t) {
        const Tile& tile = tiles[t];
        std::vector<float> powers(4 * maps.bins);
        const LossLevel& level = *tile.level;
        for (std::int64_t cell = tile.begin; cell < tile.end; ++cell) {
            const T* map = static_cast<const T*>(level.data) + (tile.image * level.height * level.width + cell) * channels;
            const std::int64_t anchor = tile.image * anchors + tile.first + cell;
            Side sides[4];
            run_softmax(map, maps.bins, sides, powers.data());
            const float x = static_cast<float>(cell % level.width) + 0.5f, y = static_cast<float>(cell / level.width) + 0.5f;
            const float corners[4] = {x - sides[0].expected, y - sides[1].expected, x + sides[2].expected,
                                      y + sides[3].expected};
            for (int side = 0; side < 4; ++side) boxes[4 * anchor + side] = corners[side] * level.stride;
            std::copy_n(map + 4 * maps.bins, maps.classes, static_cast<T*>(logits) + anchor * maps.classes);
        }
    });
}

template <typename T>
Status run_loss(const LossMaps& maps, const LossTargets& targets, const LossForm& form, float scale, float* parts,
                int threads) {
    const std::vector<Tile> tiles = tiles_of(maps);
    const std::int64_t anchors = anchors_of(maps);
    std::vector<Parts> partial(tiles.size());
    const Status status = parallel_for(static_cast<std::int64_t>(tiles.size()), threads, [&](std::int64_t t) {
        partial[t] = Branch<T>(maps, targets, form, anchors, scale).over(tiles[t]);
    });
    Parts sum;
    for (const Parts& part : partial) {
        sum.box += part.box;
        sum.cls += part.cls;
        sum.dfl += part.dfl;
    }
    const double by[3] = {sum.box, sum.cls, sum.dfl};
    for (int i = 0; i < 3; ++i) parts[i] = static_cast<float>(by[i] * static_cast<double>(scale));
    return status;
}

Status check(const LossMaps& maps) {
    if (maps.images < 0 || maps.classes < 1 || maps.bins < 2) return bad_argument("a length is too small");
    if (maps.dtype == Dtype::kFloat16) return bad_argument("the maps are not float32 or bfloat16");
    for (const LossLevel& level : maps.levels)
        if (maps.images * level.height * level.width > 0 && !level.data) return bad_argument("the address of a map is null");
    return ok();
}

Status check(const LossMaps& maps, const LossTargets& targets, const LossForm& form) {
    const std::int64_t count = maps.images * anchors_of(maps), boxes = maps.images * targets.gt_count;
    if (maps.images && !targets.weight_sum) return bad_argument("the address of weight_sum is null");
    if (count > 0 && (!targets.gt_index || !targets.weight)) return bad_argument("the address of the assignment is null");
    if (boxes > 0 && (!targets.labels || !targets.gt_boxes)) return bad_argument("the address of the boxes is null");
    bool gradient = false;
    for (const LossLevel& level : maps.levels) gradient |= level.grad != nullptr;
    if (gradient && !form.factors) return bad_argument("the address of factors is null");
    const std::int64_t each = maps.images ? count / maps.images : 0;
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t owner = targets.gt_index[i];
        if (owner < -1 || owner >= targets.gt_count) return bad_argument("gt_index: an index of no box");
        if (owner < 0) continue;
        const std::int64_t label = targets.labels[i / each * targets.gt_count + owner];
        if (label < 0 || label >= maps.classes) return bad_argument("gt_labels: an index of no class");
    }
    return ok();
}

}  // namespace

Status loss_predictions_cpu(const LossMaps& maps, float* boxes, void* logits, int threads) {
    const Status status = check(maps);
    if (status.code != kOk) return status;
    if (maps.images * anchors_of(maps) > 0 && (!boxes || !logits)) return bad_argument("the address of an output is null");
    return maps.dtype == Dtype::kFloat32 ? predict<float>(maps, boxes, logits, threads)
                                         : predict<BFloat16>(maps, boxes, logits, threads);
}

Status detection_loss_cpu(const LossMaps& maps, const LossTargets& targets, const LossForm& form, float* parts, int threads) {
    Status status = check(maps);
    if (status.code == kOk) status = check(maps, targets, form);
    if (status.code != kOk) return status;
    if (!parts) return bad_argument("the address of parts is null");
    double weights = 0.0;
    for (std::int64_t image = 0; image < maps.images; ++image) weights += static_cast<double>(targets.weight_sum[image]);
    const float scale = static_cast<float>(1.0 / std::max(weights, 1.0));
    const auto run = maps.dtype == Dtype::kFloat32 ? run_loss<float> : run_loss<BFloat16>;
    return run(maps, targets, form, scale, parts, threads);
}

}  // namespace yk
