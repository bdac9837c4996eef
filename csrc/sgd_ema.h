// The optimizer step over flat storage on the host: clip, weight decay, Nesterov SGD, moving average
// (yolov9k/ops/reference/sgd_ema.py).
#pragma once

#include <cstdint>

#include "dtype.h"
#include "status.h"

namespace yk {

constexpr int kGroups = 3;

struct SgdStep {
    float* values;                   // [total]: trained ones, then those that the average alone follows
    float *grads, *momentum;         // [ends[2]]
    float* ema;                      // [total]
    void* low;  // [ends[2]] of `low_dtype`, float32 or bfloat16: a copy of the trained values; null: none
    Dtype low_dtype;
    const float* settings;  // learning rates, decays, momentum, clip, EMA decay and its rest, tau, growth, backoff, interval
    float* state;  // norm, skipped, updates, scale, tracker
    std::int64_t ends[kGroups];  // where each group ends
    std::int64_t total;
};

Status sgd_ema_cpu(const SgdStep& step, int threads);

}  // namespace yk
