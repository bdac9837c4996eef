// BatchNorm and SiLU over channels-last maps on the host: what a block's plan does between its convolutions
// (yolov9k/ops/plan/host.py). Sums are kept in double, in an order that the number of threads does not change.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "status.h"

namespace yk {

constexpr int kBnMaps = 2;   // maps whose normalized values are added: the two branches of a RepConvN
constexpr int kBnGrads = 3;  // gradients that meet at one value

// A pixel of an image is a row. float32 or bfloat16.
struct BnShape {
    Dtype dtype;
    std::int64_t rows, channels;
};

// A map, or a slice of one: the channels of row r begin `r * pitch` elements after `data`.
struct BnRows {
    void* data;
    std::int64_t pitch;
};

// [channels] each.
struct BnVectors {
    const float *gamma, *beta;
    const double *mean, *invstd;  // a float32 mean far from zero would be off by a part of the spread
};

// A map before BatchNorm, and that BatchNorm.
struct BnMap {
    BnRows z;
    BnVectors vectors;
};

// What readers of a map normalize it with, [channels] each: SiLU((z - center) * scale + shift) where active is not 0, and
// without SiLU elsewhere.
struct BnTable {
    double *center, *scale, *shift, *active;
};

// Running statistics, moved by a batch. Null where there are none.
struct BnRunning {
    float *mean, *var;
    std::int64_t* batches;
    double momentum;
};

// Mean and sum of squared deviations from it, [channels] each.
Status bn_statistics_cpu(const BnShape& shape, const BnRows& z, double* mean, double* spread, int threads);

// From these to found = mean, 1 / sqrt(biased variance + eps), [2, channels], to the running statistics (the variance enters
// unbiased), and to the table of readers, where gamma is not null.
Status bn_settle_cpu(const BnShape& shape, const double* mean, const double* spread, double eps, double* found,
                     const BnRunning& running, const float* gamma, const float* beta, bool active, const BnTable& table);

// y = SiLU(sum over maps of (z - mean) * invstd * gamma + beta), or that without SiLU, plus residual where that is not null.
Status bn_silu_cpu(const BnShape& shape, const BnMap* maps, int count, bool activation, const BnRows& residual, const BnRows& y,
                   int threads);

// y: the map as its readers see it.
Status bn_apply_table_cpu(const BnShape& shape, const BnRows& z, const BnTable& table, const BnRows& y, int threads);

// Back through SiLU. out: the gradient of the sum over maps, from the sum of `grads`; may be one of them. sums, [channels]
// each: of out, and for every map of out * (z - mean) * invstd.
Status bn_silu_backward_reduce_cpu(const BnShape& shape, const BnRows* grads, int grad_count, const BnMap* maps, int count,
                                   bool activation, const BnRows& out, double* sums, int threads);

// Back through BatchNorm: the gradient of every map's z, from `grad`, which may be one of `out`. sums: as above, of all
// `total` rows; null where mean and invstd are not the maps' own.
Status bn_silu_backward_apply_cpu(const BnShape& shape, const BnRows& grad, const BnMap* maps, int count, const double* sums,
                                  double total, const BnRows* out, int threads);

}  // namespace yk
