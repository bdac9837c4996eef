// BatchNorm and SiLU over a channels-last map on the host: what conv_bn_silu does beside its convolutions
// (yolov9k/ops/conv_bn_silu.py). Sums are kept in double, in an order that the number of threads does not change.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "status.h"

namespace yk {

// [rows, channels], contiguous: a pixel of an image a row. float32 or bfloat16.
struct BnMap {
    const void* data;
    Dtype dtype;
    std::int64_t rows, channels;
};

// [channels] each.
struct BnVectors {
    const float *gamma, *beta;
    const double *mean, *invstd;  // a float32 mean far from zero would be off by a part of the spread
};

struct BnGradients {
    void* z;             // as the map
    float *gamma, *beta;  // [channels]
};

// mean and 1 / sqrt(biased variance + eps), [channels] each.
Status bn_statistics_cpu(const BnMap& z, double eps, double* mean, double* invstd, int threads);

// y = SiLU((z - mean) * invstd * gamma + beta), or that without SiLU; y as the map.
Status bn_silu_cpu(const BnMap& z, const BnVectors& vectors, bool activation, void* y, int threads);

// Back from the gradient of y, as the map. training: mean and invstd are those of z itself.
Status bn_silu_backward_cpu(const BnMap& z, const void* grad, const BnVectors& vectors, bool activation, bool training,
                            const BnGradients& out, int threads);

}  // namespace yk
