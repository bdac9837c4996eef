// The host backend of sgd_ema: one pass over the gradient for its norm, one over everything for the step.
#include "sgd_ema.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "clones.h"
#include "elements.h"
#include "threads.h"

namespace yk {

namespace {

constexpr std::int64_t kBlock = 1 << 16;  // values of a task: their partial sums are merged in order
constexpr std::int64_t kLanes = 16;

// Where each value stands (yolov9k/ops/reference/sgd_ema.py).
enum Setting { kLr = 0, kDecay = 3, kMomentum = 6, kClip, kEmaDecay, kEmaRest, kEmaTau, kGrowth, kBackoff, kInterval };
enum State { kNorm, kSkipped, kUpdates, kScale, kTracker };

// What all values of a step share.
struct Shared {
    float share, rate, weight;  // of the gradient, of the momentum, of the new value in the average
};

YK_CLONES double sum_squares(const float* grads, std::int64_t count, float inverse) {
    double lanes[kLanes] = {};
    std::int64_t begin = 0;
    for (; begin + kLanes <= count; begin += kLanes)
        for (std::int64_t i = 0; i < kLanes; ++i) {
            const double g = static_cast<double>(grads[begin + i] * inverse);
            lanes[i] += g * g;
        }
    for (; begin < count; ++begin) {
        const double g = static_cast<double>(grads[begin] * inverse);
        lanes[0] += g * g;
    }
    double sum = 0.0;
    for (const double lane : lanes) sum += lane;
    return sum;
}

// As torch.lerp: from the nearer end. 1 - weight is exact there.
struct Average {
    bool near;
    float weight;

    explicit Average(float weight) : near(weight < 0.5f), weight(near ? weight : weight - 1.0f) {}
    YK_INLINE float operator()(float old, float value) const { return (near ? old : value) + weight * (value - old); }
};

YK_CLONES void average_values(const float* __restrict values, float* __restrict ema, std::int64_t count, float weight) {
    const Average average(weight);
    for (std::int64_t i = 0; i < count; ++i) ema[i] = average(ema[i], values[i]);
}

YK_CLONES void train_values(float* __restrict values, float* __restrict grads, float* __restrict momentum, std::int64_t count,
                            float lr, float decay, Shared shared) {
    for (std::int64_t i = 0; i < count; ++i) {
        const float gradient = grads[i] * shared.share + decay * values[i];
        const float buffer = shared.rate * momentum[i] + gradient;
        values[i] -= lr * (gradient + shared.rate * buffer);
        momentum[i] = buffer;
        grads[i] = 0.0f;
    }
}

YK_CLONES void copy_low(const float* __restrict values, BFloat16* __restrict low, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) store(low[i], values[i]);
}

// Values begin..end-1, all of them while they are in the cache.
void update(const SgdStep& step, const Shared& shared, std::int64_t begin, std::int64_t end) {
    std::int64_t start = 0;
    for (int group = 0; group < kGroups; start = step.ends[group++]) {
        const std::int64_t from = std::max(begin, start), count = std::min(end, step.ends[group]) - from;
        if (count > 0)
            train_values(step.values + from, step.grads + from, step.momentum + from, count, step.settings[kLr + group],
                         step.settings[kDecay + group], shared);
    }
    const std::int64_t trained = std::min(end, step.ends[kGroups - 1]) - begin;
    if (step.low && trained > 0 && step.low_dtype == Dtype::kFloat32)
        std::copy_n(step.values + begin, trained, static_cast<float*>(step.low) + begin);
    else if (step.low && trained > 0)
        copy_low(step.values + begin, static_cast<BFloat16*>(step.low) + begin, trained);
    average_values(step.values + begin, step.ema + begin, end - begin, shared.weight);
}

// Counts the step, and lets the loss scale grow or shrink as torch.amp.GradScaler's does.
void advance(const SgdStep& step, float norm, bool finite) {
    float* state = step.state;
    const float* settings = step.settings;
    const float passed = finite ? state[kTracker] + 1.0f : 0.0f;
    const bool due = passed == settings[kInterval];
    const float grown = state[kScale] * settings[kGrowth];
    state[kNorm] = norm;
    state[finite ? kUpdates : kSkipped] += 1.0f;
    if (!finite)
        state[kScale] *= settings[kBackoff];
    else if (due && std::isfinite(grown))
        state[kScale] = grown;
    state[kTracker] = due ? 0.0f : passed;
}

Status check(const SgdStep& step) {
    std::int64_t last = 0;
    for (const std::int64_t end : step.ends) {
        if (end < last) return bad_argument("group_ends do not rise");
        last = end;
    }
    if (step.total < last) return bad_argument("group_ends reach beyond the values");
    if (!step.settings || !step.state) return bad_argument("the address of settings or state is null");
    if (step.total && (!step.values || !step.ema)) return bad_argument("the address of values or ema is null");
    if (last && (!step.grads || !step.momentum)) return bad_argument("the address of grads or momentum is null");
    if (step.low && step.low_dtype == Dtype::kFloat16) return bad_argument("low is not float32 or bfloat16");
    return ok();
}

// work(begin, end) of each block of `count` values.
template <typename Work>
Status over_blocks(std::int64_t count, int threads, const Work& work) {
    return parallel_for((count + kBlock - 1) / kBlock, threads,
                        [&](std::int64_t b) { work(b * kBlock, std::min(count, (b + 1) * kBlock)); });
}

}  // namespace

Status sgd_ema_cpu(const SgdStep& step, int threads) {
    Status status = check(step);
    if (status.code != kOk) return status;
    const std::int64_t trained = step.ends[kGroups - 1];
    const float inverse = 1.0f / step.state[kScale];
    std::vector<double> partial((trained + kBlock - 1) / kBlock);
    status = over_blocks(trained, threads, [&](std::int64_t begin, std::int64_t end) {
        partial[begin / kBlock] = sum_squares(step.grads + begin, end - begin, inverse);
    });
    if (status.code != kOk) return status;
    double total = 0.0;
    for (const double sum : partial) total += sum;
    const float norm = static_cast<float>(std::sqrt(total));
    const bool finite = std::isfinite(norm);
    const float *settings = step.settings, updates = step.state[kUpdates] + 1.0f;
    const float weight = settings[kEmaRest] + settings[kEmaDecay] * std::exp(-updates / settings[kEmaTau]);
    const Shared shared{std::min(settings[kClip] / (norm + 1e-6f), 1.0f) * inverse, settings[kMomentum], weight};
    if (finite)
        status =
            over_blocks(step.total, threads, [&](std::int64_t begin, std::int64_t end) { update(step, shared, begin, end); });
    else
        std::fill_n(step.grads, trained, 0.0f);
    if (status.code == kOk) advance(step, norm, finite);
    return status;
}

}  // namespace yk
