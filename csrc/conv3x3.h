// 3x3 convolutions with stride 1 and padding 1 over channels-last float32 maps on the host, for processors with AVX2 and FMA
// but without AVX-512 (yolov9k/ops/plan/host.py): a library's own calls cost more there than these layers' arithmetic.
// A result is rounded as the largest of its tile of 2x2 pixels is, a weight's gradient as the largest of its nine taps. Results
// do not depend on the number of threads.
#pragma once

#include <cstdint>

#include "status.h"

namespace yk {

// in, out: channels of all `groups`, both multiples of 8 a group.
struct ConvShape {
    std::int64_t batch, height, width, in, out, groups;
};

// Element (row of weights o, channel i of its group, 3 * vertical + horizontal tap) of a weight [out, in / groups, 3, 3], at
// data + o * stride_out + i * stride_in + tap * stride_tap.
struct ConvWeight {
    float* data;
    std::int64_t stride_out, stride_in, stride_tap;
};

// A channels-last map or a slice of its channels: pixel p at data + p * pitch.
struct ConvMap {
    float* data;
    std::int64_t pitch;
};

// Whether this processor is one of those.
bool conv3x3_serves();

// y [batch, height, width, out] of x [batch, height, width, in].
Status conv3x3_cpu(const ConvShape& shape, const ConvMap& x, const ConvWeight& weight, const ConvMap& y, int threads);

// The gradient of x from that of y.
Status conv3x3_input_gradient_cpu(const ConvShape& shape, const ConvMap& grad, const ConvWeight& weight, const ConvMap& grad_x,
                                  int threads);

// The gradient of the weight.
Status conv3x3_weight_gradient_cpu(const ConvShape& shape, const ConvMap& grad, const ConvMap& x, const ConvWeight& grad_weight,
                                   int threads);

}  // namespace yk
