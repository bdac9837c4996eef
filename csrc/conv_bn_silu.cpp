// The host backend of conv_bn_silu: a pass over the map for its statistics, one for its values; backward, one back through SiLU
// and for the sums, one for the gradient.
#include "conv_bn_silu.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "clones.h"
#include "elements.h"
#include "threads.h"

namespace yk {

namespace {

constexpr std::int64_t kStrip = 256;  // elements of a loop, about: whole pixels, so that channels repeat
constexpr std::int64_t kBlock = 1 << 16;  // elements of a task, about: their partial sums are merged in order

YK_INLINE float sigmoid(float u) { return 1.0f / (1.0f + exponential(-u)); }

// u, but no lower than where its sigmoid stays: their product is 0 beyond.
YK_INLINE float bounded(float u) { return u < -64.0f ? -64.0f : u; }

// The vectors of all channels, repeated along a strip: loops are long where channels are few.
struct Strip {
    std::int64_t channels, length;

    explicit Strip(std::int64_t channels)
        : channels(channels), length(channels * std::max<std::int64_t>(1, kStrip / channels)) {}

    std::vector<float> repeat(const float* vector) const {
        std::vector<float> result(length);
        for (std::int64_t i = 0; i < length; ++i) result[i] = vector[i % channels];
        return result;
    }

    std::int64_t block() const { return length * std::max<std::int64_t>(1, kBlock / length); }
};

// u = (z - mean) * scale + beta, in which beta makes up for what of the mean a float32 does not hold.
struct Repeated {
    std::vector<float> mean, scale, beta;

    Repeated(const Strip& strip, const BnVectors& v) : mean(strip.length), scale(strip.length), beta(strip.length) {
        for (std::int64_t i = 0; i < strip.length; ++i) {
            const std::int64_t c = i % strip.channels;
            mean[i] = static_cast<float>(v.mean[c]);
            scale[i] = static_cast<float>(v.gamma[c] * v.invstd[c]);
            beta[i] = static_cast<float>(v.beta[c] - rest(v, c) * v.gamma[c] * v.invstd[c]);
        }
    }

    static double rest(const BnVectors& v, std::int64_t c) { return v.mean[c] - static_cast<float>(v.mean[c]); }
};

template <typename T>
YK_INLINE void sum_squares(const T* z, std::int64_t count, const float* shift, std::int64_t length, double* sum,
                           double* squares) {
    for (std::int64_t begin = 0; begin < count; begin += length) {
        const std::int64_t n = std::min(length, count - begin);
        for (std::int64_t i = 0; i < n; ++i) {
            const double d = static_cast<double>(load(z[begin + i])) - static_cast<double>(shift[i]);
            sum[i] += d;
            squares[i] += d * d;
        }
    }
}

template <bool Activation, typename T>
YK_INLINE void normalize(const T* z, std::int64_t count, const Repeated& v, T* y) {
    const float *mean = v.mean.data(), *scale = v.scale.data(), *beta = v.beta.data();
    const std::int64_t length = static_cast<std::int64_t>(v.mean.size());
    for (std::int64_t begin = 0; begin < count; begin += length) {
        const std::int64_t n = std::min(length, count - begin);
        for (std::int64_t i = 0; i < n; ++i) {
            const float u = (load(z[begin + i]) - mean[i]) * scale[i] + beta[i];
            store(y[begin + i], Activation ? bounded(u) * sigmoid(u) : u);
        }
    }
}

// The gradient of u, BatchNorm's result.
template <bool Activation>
YK_INLINE float through_silu(float grad, float u) {
    if (!Activation) return grad;
    const float s = sigmoid(u);
    return grad * (s * (1.0f + bounded(u) * (1.0f - s)));
}

// out: the gradient of u, for `propagate`.
template <bool Activation, typename T>
YK_INLINE void sum_gradients(const T* z, const T* grad, std::int64_t count, const Repeated& v, T* out, double* sum,
                             double* product) {
    const float *mean = v.mean.data(), *scale = v.scale.data(), *beta = v.beta.data();
    const std::int64_t length = static_cast<std::int64_t>(v.mean.size());
    for (std::int64_t begin = 0; begin < count; begin += length) {
        const std::int64_t n = std::min(length, count - begin);
        for (std::int64_t i = 0; i < n; ++i) {
            const float centered = load(z[begin + i]) - mean[i];
            const float g = through_silu<Activation>(load(grad[begin + i]), centered * scale[i] + beta[i]);
            store(out[begin + i], g);
            sum[i] += static_cast<double>(g);
            product[i] += static_cast<double>(g) * static_cast<double>(centered);
        }
    }
}

// From the gradient of u to that of z, in place. shift, slope: what the batch's own mean and variance take from it, zeros in
// inference.
template <typename T>
YK_INLINE void propagate(const T* z, std::int64_t count, const Repeated& v, const float* shift, const float* slope, T* out) {
    const float *mean = v.mean.data(), *scale = v.scale.data();
    const std::int64_t length = static_cast<std::int64_t>(v.mean.size());
    for (std::int64_t begin = 0; begin < count; begin += length) {
        const std::int64_t n = std::min(length, count - begin);
        for (std::int64_t i = 0; i < n; ++i) {
            const float centered = load(z[begin + i]) - mean[i];
            store(out[begin + i], (load(out[begin + i]) - shift[i] - centered * slope[i]) * scale[i]);
        }
    }
}

// A clone is made of a plain function only, one for each dtype.
#define YK_PASSES(T)                                                                                                       \
    YK_CLONES void run_sums(const T* z, std::int64_t count, const float* shift, std::int64_t length, double* sum,          \
                            double* squares) {                                                                             \
        sum_squares(z, count, shift, length, sum, squares);                                                                \
    }                                                                                                                      \
    YK_CLONES void run_forward(const T* z, std::int64_t count, const Repeated& v, bool activation, T* y) {                 \
        activation ? normalize<true>(z, count, v, y) : normalize<false>(z, count, v, y);                                   \
    }                                                                                                                      \
    YK_CLONES void run_backward_sums(const T* z, const T* grad, std::int64_t count, const Repeated& v, bool activation,    \
                                     T* out, double* sum, double* product) {                                               \
        activation ? sum_gradients<true>(z, grad, count, v, out, sum, product)                                             \
                   : sum_gradients<false>(z, grad, count, v, out, sum, product);                                           \
    }                                                                                                                      \
    YK_CLONES void run_backward(const T* z, std::int64_t count, const Repeated& v, const float* shift, const float* slope, \
                                T* out) {                                                                                  \
        propagate(z, count, v, shift, slope, out);                                                                         \
    }
YK_PASSES(float)
YK_PASSES(BFloat16)
#undef YK_PASSES

// Two sums a channel over the whole map: work(first element, count, sums along a strip) a block, merged in the blocks' order.
template <typename Work>
Status reduce(const BnMap& z, const Strip& strip, int threads, std::vector<double>& total, const Work& work) {
    const std::int64_t count = z.rows * z.channels, block = strip.block(), blocks = (count + block - 1) / block;
    std::vector<double> partial(2 * z.channels * blocks);
    const Status status = parallel_for(blocks, threads, [&](std::int64_t b) {
        std::vector<double> sums(2 * strip.length);
        work(b * block, std::min(block, count - b * block), sums.data(), sums.data() + strip.length);
        double* into = partial.data() + 2 * z.channels * b;
        for (std::int64_t i = 0; i < strip.length; ++i) {
            into[i % z.channels] += sums[i];
            into[z.channels + i % z.channels] += sums[strip.length + i];
        }
    });
    total.assign(2 * z.channels, 0.0);
    for (std::size_t i = 0; i < partial.size(); ++i) total[i % total.size()] += partial[i];
    return status;
}

// work(first element, count) a block.
template <typename Work>
Status over_blocks(const BnMap& z, const Strip& strip, int threads, const Work& work) {
    const std::int64_t count = z.rows * z.channels, block = strip.block();
    return parallel_for((count + block - 1) / block, threads,
                        [&](std::int64_t b) { work(b * block, std::min(block, count - b * block)); });
}

Status check(const BnMap& z, bool addresses) {
    if (z.rows < 1 || z.channels < 1) return bad_argument("the map is empty");
    if (!z.data || !addresses) return bad_argument("an address is null");
    if (z.dtype != Dtype::kFloat32 && z.dtype != Dtype::kBFloat16) return bad_argument("the map is not float32 or bfloat16");
    return ok();
}

bool complete(const BnVectors& v) { return v.gamma && v.beta && v.mean && v.invstd; }

template <typename T>
Status statistics(const BnMap& z, double eps, double* mean, double* invstd, int threads) {
    const T* data = static_cast<const T*>(z.data);
    const Strip strip(z.channels);
    std::vector<float> first(z.channels);  // deviations from it are small where the spread is, whatever the mean
    for (std::int64_t c = 0; c < z.channels; ++c) first[c] = load(data[c]);
    const std::vector<float> shift = strip.repeat(first.data());
    std::vector<double> total;
    const Status status =
        reduce(z, strip, threads, total, [&](std::int64_t begin, std::int64_t count, double* sum, double* sq) {
            run_sums(data + begin, count, shift.data(), strip.length, sum, sq);
        });
    const double rows = static_cast<double>(z.rows);
    for (std::int64_t c = 0; c < z.channels; ++c) {
        const double offset = total[c] / rows;
        const double variance = std::max(0.0, total[z.channels + c] / rows - offset * offset);
        mean[c] = first[c] + offset;
        invstd[c] = 1.0 / std::sqrt((offset == offset ? variance : offset) + eps);
    }
    return status;
}

template <typename T>
Status forward(const BnMap& z, const BnVectors& vectors, bool activation, void* y, int threads) {
    const T* data = static_cast<const T*>(z.data);
    const Strip strip(z.channels);
    const Repeated repeated(strip, vectors);
    return over_blocks(z, strip, threads, [&](std::int64_t begin, std::int64_t count) {
        run_forward(data + begin, count, repeated, activation, static_cast<T*>(y) + begin);
    });
}

template <typename T>
Status backward(const BnMap& z, const void* grad, const BnVectors& vectors, bool activation, bool training,
                const BnGradients& out, int threads) {
    const T *data = static_cast<const T*>(z.data), *from = static_cast<const T*>(grad);
    T* into = static_cast<T*>(out.z);
    const Strip strip(z.channels);
    const Repeated repeated(strip, vectors);
    std::vector<double> total;
    const Status status = reduce(z, strip, threads, total, [&](std::int64_t begin, std::int64_t count, double* a, double* b) {
        run_backward_sums(data + begin, from + begin, count, repeated, activation, into + begin, a, b);
    });
    if (status.code != kOk) return status;
    std::vector<float> shift(z.channels), slope(z.channels);
    const double rows = static_cast<double>(z.rows);
    for (std::int64_t c = 0; c < z.channels; ++c) {
        const double invstd = vectors.invstd[c], rest = Repeated::rest(vectors, c);
        const double sum = total[c], product = total[z.channels + c] - rest * sum;
        const double pull = training ? product / rows * invstd * invstd : 0.0;
        out.beta[c] = static_cast<float>(sum);
        out.gamma[c] = static_cast<float>(product * invstd);
        slope[c] = static_cast<float>(pull);
        shift[c] = static_cast<float>(training ? sum / rows - rest * pull : 0.0);
    }
    const std::vector<float> shifts = strip.repeat(shift.data()), slopes = strip.repeat(slope.data());
    return over_blocks(z, strip, threads, [&](std::int64_t begin, std::int64_t count) {
        run_backward(data + begin, count, repeated, shifts.data(), slopes.data(), into + begin);
    });
}

}  // namespace

Status bn_statistics_cpu(const BnMap& z, double eps, double* mean, double* invstd, int threads) {
    const Status status = check(z, mean && invstd);
    if (status.code != kOk) return status;
    const bool exact = z.dtype == Dtype::kFloat32;
    return exact ? statistics<float>(z, eps, mean, invstd, threads) : statistics<BFloat16>(z, eps, mean, invstd, threads);
}

Status bn_silu_cpu(const BnMap& z, const BnVectors& vectors, bool activation, void* y, int threads) {
    const Status status = check(z, complete(vectors) && y);
    if (status.code != kOk) return status;
    const bool exact = z.dtype == Dtype::kFloat32;
    return exact ? forward<float>(z, vectors, activation, y, threads) : forward<BFloat16>(z, vectors, activation, y, threads);
}

Status bn_silu_backward_cpu(const BnMap& z, const void* grad, const BnVectors& vectors, bool activation, bool training,
                            const BnGradients& out, int threads) {
    const Status status = check(z, complete(vectors) && grad && out.z && out.gamma && out.beta);
    if (status.code != kOk) return status;
    const auto run = z.dtype == Dtype::kFloat32 ? backward<float> : backward<BFloat16>;
    return run(z, grad, vectors, activation, training, out, threads);
}

}  // namespace yk
