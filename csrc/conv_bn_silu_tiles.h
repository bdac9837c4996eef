// How maps are cut into tiles of rows that stay in the first cache, and the loops over a tile. For conv_bn_silu.cpp alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "clones.h"
#include "conv_bn_silu.h"
#include "elements.h"

#if defined(__GNUC__) && !defined(__clang__)
#define YK_IVDEP _Pragma("GCC ivdep")  // a result may lie over an operand, element over element
#else
#define YK_IVDEP
#endif

namespace yk {

namespace {

constexpr std::int64_t kStrip = 256;  // elements of a loop, about: whole rows, so that channels repeat
constexpr std::int64_t kStrips = 4;   // of a tile: what they add to a sum is added up first
constexpr std::int64_t kBlock = 1 << 16;  // elements of a task, about: their partial sums are merged in order

YK_INLINE float sigmoid(float u) { return 1.0f / (1.0f + exponential(-u)); }

// u, but no lower than where its sigmoid stays: their product is 0 beyond.
YK_INLINE float bounded(float u) { return u < -64.0f ? -64.0f : u; }

// How a map is cut: rows of a strip, of a tile, of a task.
struct Cut {
    std::int64_t rows, channels, strip, tile, block;

    explicit Cut(const BnShape& shape) : rows(shape.rows), channels(shape.channels) {
        strip = std::max<std::int64_t>(1, kStrip / channels);
        tile = strip * kStrips;
        block = tile * std::max<std::int64_t>(1, kBlock / (tile * channels));
    }

    std::int64_t length() const { return strip * channels; }  // elements of a strip
    std::int64_t blocks() const { return (rows + block - 1) / block; }

    // A vector of all channels, repeated along a strip.
    std::vector<float> repeat(const std::vector<float>& vector) const {
        std::vector<float> result(static_cast<std::size_t>(length()));
        for (std::int64_t i = 0; i < length(); i += channels) std::copy(vector.begin(), vector.end(), result.begin() + i);
        return result;
    }
};

// u = (z - mean) * scale + beta, in which beta makes up for what of the mean a float32 does not hold.
struct Repeated {
    std::vector<float> mean, scale, beta;

    Repeated(const Cut& cut, const double* center, const double* factor, const double* offset) {
        std::vector<float> vectors[3];
        for (std::vector<float>& vector : vectors) vector.resize(static_cast<std::size_t>(cut.channels));
        for (std::int64_t c = 0; c < cut.channels; ++c) {
            vectors[0][c] = static_cast<float>(center[c]);
            vectors[1][c] = static_cast<float>(factor[c]);
            vectors[2][c] = static_cast<float>(offset[c] - rest(center[c]) * factor[c]);
        }
        mean = cut.repeat(vectors[0]);
        scale = cut.repeat(vectors[1]);
        beta = cut.repeat(vectors[2]);
    }

    static Repeated of(const Cut& cut, const BnVectors& v) {
        std::vector<double> factor(static_cast<std::size_t>(cut.channels)), offset(factor.size());
        for (std::int64_t c = 0; c < cut.channels; ++c) {
            factor[c] = v.gamma[c] * v.invstd[c];
            offset[c] = v.beta[c];
        }
        return Repeated(cut, v.mean, factor.data(), offset.data());
    }

    static double rest(double center) { return center - static_cast<float>(center); }
};

// The rows of a map one after another: as they lie, or copied where other channels lie between them.
template <typename T>
class Reader {
  public:
    Reader(const Cut& cut, const BnRows& rows)
        : data_(static_cast<const T*>(rows.data)),
          pitch_(rows.pitch),
          channels_(cut.channels),
          copy_(rows.data && rows.pitch != cut.channels ? static_cast<std::size_t>(cut.tile * cut.channels) : 0) {}

    const T* at(std::int64_t row, std::int64_t count) {
        if (copy_.empty()) return data_ + row * pitch_;
        for (std::int64_t r = 0; r < count; ++r)
            std::memcpy(copy_.data() + r * channels_, data_ + (row + r) * pitch_, sizeof(T) * channels_);
        return copy_.data();
    }

  private:
    const T* data_;
    std::int64_t pitch_, channels_;
    std::vector<T> copy_;
};

// Where rows are written: `at` gives the place, `done` puts it where it belongs.
template <typename T>
class Writer {
  public:
    Writer(const Cut& cut, const BnRows& rows)
        : data_(static_cast<T*>(rows.data)),
          pitch_(rows.pitch),
          channels_(cut.channels),
          copy_(rows.pitch != cut.channels ? static_cast<std::size_t>(cut.tile * cut.channels) : 0) {}

    T* at(std::int64_t row) { return copy_.empty() ? data_ + row * pitch_ : copy_.data(); }

    void done(std::int64_t row, std::int64_t count) const {
        if (copy_.empty()) return;
        for (std::int64_t r = 0; r < count; ++r)
            std::memcpy(data_ + (row + r) * pitch_, copy_.data() + r * channels_, sizeof(T) * channels_);
    }

  private:
    T* data_;
    std::int64_t pitch_, channels_;
    std::vector<T> copy_;
};

template <typename T>
YK_INLINE void sum_squares(const T* z, std::int64_t count, const float* shift, std::int64_t length, double* sum,
                           double* squares) {
    const auto deviation = [&](std::int64_t strip, std::int64_t i) {
        return static_cast<double>(load(z[strip * length + i])) - static_cast<double>(shift[i]);
    };
    if (count == kStrips * length) {
        YK_IVDEP for (std::int64_t i = 0; i < length; ++i) {
            const double a = deviation(0, i), b = deviation(1, i), c = deviation(2, i), d = deviation(3, i);
            sum[i] += (a + b) + (c + d);
            squares[i] += (a * a + b * b) + (c * c + d * d);
        }
        return;
    }
    for (std::int64_t begin = 0; begin < count; begin += length, z += length) {
        const std::int64_t n = std::min(length, count - begin);
        YK_IVDEP for (std::int64_t i = 0; i < n; ++i) {
            const double d = deviation(0, i);
            sum[i] += d;
            squares[i] += d * d;
        }
    }
}

// sum += g; product += g * (z - mean).
template <typename T>
YK_INLINE void sum_products(const float* g, const T* z, std::int64_t count, const float* mean, std::int64_t length,
                            double* product) {
    const auto term = [&](std::int64_t strip, std::int64_t i) {
        return static_cast<double>(g[strip * length + i]) * static_cast<double>(load(z[strip * length + i]) - mean[i]);
    };
    if (count == kStrips * length) {
        YK_IVDEP for (std::int64_t i = 0; i < length; ++i) product[i] += (term(0, i) + term(1, i)) + (term(2, i) + term(3, i));
        return;
    }
    for (std::int64_t begin = 0; begin < count; begin += length, z += length, g += length) {
        const std::int64_t n = std::min(length, count - begin);
        YK_IVDEP for (std::int64_t i = 0; i < n; ++i) product[i] += term(0, i);
    }
}

YK_INLINE void sum_gradients(const float* g, std::int64_t count, std::int64_t length, double* sum) {
    for (std::int64_t begin = 0; begin < count; begin += length, g += length) {
        const std::int64_t n = std::min(length, count - begin);
        YK_IVDEP for (std::int64_t i = 0; i < n; ++i) sum[i] += static_cast<double>(g[i]);
    }
}

// u = (or, where there is another map before, +=) the normalized values.
template <bool Add, typename T>
YK_INLINE void normalize(const T* z, std::int64_t count, const Repeated& v, float* u) {
    const float *mean = v.mean.data(), *scale = v.scale.data(), *beta = v.beta.data();
    const std::int64_t length = static_cast<std::int64_t>(v.mean.size());
    for (std::int64_t begin = 0; begin < count; begin += length, z += length, u += length) {
        const std::int64_t n = std::min(length, count - begin);
        YK_IVDEP for (std::int64_t i = 0; i < n; ++i) u[i] = (load(z[i]) - mean[i]) * scale[i] + beta[i] + (Add ? u[i] : 0.0f);
    }
}

template <bool Activation, bool Residual, typename T>
YK_INLINE void activate(const float* u, const T* residual, std::int64_t count, T* y) {
    YK_IVDEP for (std::int64_t i = 0; i < count; ++i) {
        const float value = Activation ? bounded(u[i]) * sigmoid(u[i]) : u[i];
        store(y[i], Residual ? value + load(residual[i]) : value);
    }
}

template <typename T>
YK_INLINE void activate_where(const float* u, const float* active, std::int64_t length, std::int64_t count, T* y) {
    for (std::int64_t begin = 0; begin < count; begin += length, u += length, y += length) {
        const std::int64_t n = std::min(length, count - begin);
        YK_IVDEP for (std::int64_t i = 0; i < n; ++i) store(y[i], active[i] != 0.0f ? bounded(u[i]) * sigmoid(u[i]) : u[i]);
    }
}

template <bool Add, typename T>
YK_INLINE void collect(const T* grad, std::int64_t count, float* g) {
    YK_IVDEP for (std::int64_t i = 0; i < count; ++i) g[i] = load(grad[i]) + (Add ? g[i] : 0.0f);
}

// The gradient of u from that of SiLU(u), in place; and where it is kept.
template <bool Activation, typename T>
YK_INLINE void back_through_silu(const float* u, std::int64_t count, float* g, T* out) {
    YK_IVDEP for (std::int64_t i = 0; i < count; ++i) {
        if (Activation) {
            const float s = sigmoid(u[i]);
            g[i] *= s * (1.0f + bounded(u[i]) * (1.0f - s));
        }
        store(out[i], g[i]);
    }
}

// From the gradient of u to that of z. shift, slope: what the batch's own mean and variance take from it.
template <typename T>
YK_INLINE void propagate(const float* g, const T* z, std::int64_t count, const Repeated& v, const float* shift,
                         const float* slope, T* out) {
    const float *mean = v.mean.data(), *scale = v.scale.data();
    const std::int64_t length = static_cast<std::int64_t>(v.mean.size());
    for (std::int64_t begin = 0; begin < count; begin += length, g += length, z += length, out += length) {
        const std::int64_t n = std::min(length, count - begin);
        YK_IVDEP for (std::int64_t i = 0; i < n; ++i)
            store(out[i], (g[i] - shift[i] - (load(z[i]) - mean[i]) * slope[i]) * scale[i]);
    }
}

// A clone is made of a plain function only, one for each dtype.
#define YK_PASSES(T)                                                                                                        \
    YK_CLONES void run_squares(const T* z, std::int64_t count, const float* shift, std::int64_t length, double* sum,        \
                               double* squares) {                                                                           \
        sum_squares(z, count, shift, length, sum, squares);                                                                 \
    }                                                                                                                       \
    YK_CLONES void run_products(const float* g, const T* z, std::int64_t count, const float* mean, std::int64_t length,     \
                                double* product) {                                                                          \
        sum_products(g, z, count, mean, length, product);                                                                   \
    }                                                                                                                       \
    YK_CLONES void run_normalize(const T* z, std::int64_t count, const Repeated& v, bool add, float* u) {                   \
        add ? normalize<true>(z, count, v, u) : normalize<false>(z, count, v, u);                                           \
    }                                                                                                                       \
    YK_CLONES void run_activate(const float* u, const T* residual, std::int64_t count, bool activation, T* y) {             \
        if (activation) {                                                                                                   \
            residual ? activate<true, true>(u, residual, count, y) : activate<true, false>(u, residual, count, y);          \
        } else {                                                                                                            \
            residual ? activate<false, true>(u, residual, count, y) : activate<false, false>(u, residual, count, y);        \
        }                                                                                                                   \
    }                                                                                                                       \
    YK_CLONES void run_activate_where(const float* u, const float* active, std::int64_t length, std::int64_t count, T* y) { \
        activate_where(u, active, length, count, y);                                                                        \
    }                                                                                                                       \
    YK_CLONES void run_collect(const T* grad, std::int64_t count, bool add, float* g) {                                     \
        add ? collect<true>(grad, count, g) : collect<false>(grad, count, g);                                               \
    }                                                                                                                       \
    YK_CLONES void run_back(const float* u, std::int64_t count, bool activation, float* g, T* out) {                        \
        activation ? back_through_silu<true>(u, count, g, out) : back_through_silu<false>(u, count, g, out);                \
    }                                                                                                                       \
    YK_CLONES void run_propagate(const float* g, const T* z, std::int64_t count, const Repeated& v, const float* shift,     \
                                 const float* slope, T* out) {                                                              \
        propagate(g, z, count, v, shift, slope, out);                                                                       \
    }
YK_PASSES(float)
YK_PASSES(BFloat16)
#undef YK_PASSES
YK_CLONES void run_sum(const float* g, std::int64_t count, std::int64_t length, double* sum) {
    sum_gradients(g, count, length, sum);
}

}  // namespace

}  // namespace yk
