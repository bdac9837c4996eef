// Direct convolution: a block of pixels times a block of output channels stays in registers while all taps and input channels
// pass by. Rows are copied once into a buffer with a border of zeros, so that no tap asks where it is.
#include "conv3x3.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "clones.h"
#include "threads.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define YK_DIRECT __attribute__((target("avx2,fma")))
#define YK_UNROLL _Pragma("GCC unroll 16")  // before arrays are made registers, or they are kept in memory too
#endif

namespace yk {

#ifdef YK_DIRECT

namespace {

constexpr std::int64_t kTaps = 9;
constexpr std::int64_t kLanes = 8;         // floats of a vector
constexpr std::int64_t kBandFloats = 1 << 14;  // of a band's input rows, about: they stay in the second cache
constexpr std::int64_t kChunks = 16;       // partial weight gradients at most
constexpr std::int64_t kChunkPixels = 512;  // that each of them is of, at least

// Blocks of output channels, in vectors: pairs, and for an odd count a last block of three (of one, where there is but one).
// Registers hold 12 sums: 6 pixels of a pair, 4 of three vectors, 12 of one.
struct Blocks {
    std::int64_t vectors;

    std::int64_t count() const { return vectors % 2 && vectors > 1 ? vectors / 2 : (vectors + 1) / 2; }
    std::int64_t size(std::int64_t block) const { return block + 1 < count() ? 2 : vectors - 2 * block; }
};

constexpr int pixels_of(int vectors) { return vectors == 1 ? 12 : vectors == 2 ? 6 : 4; }

// Rows of a map with a border of zeros: `rows` + 2 rows of width + 2 pixels, `channels` each.
struct Band {
    std::int64_t width, channels;
    std::vector<float> data;

    Band(std::int64_t rows, std::int64_t width, std::int64_t channels)
        : width(width), channels(channels), data(static_cast<std::size_t>((rows + 2) * (width + 2) * channels)) {}

    std::int64_t line() const { return (width + 2) * channels; }

    // Rows first - 1 ... first + rows of an image, whose first pixel is at `image`.
    void fill(const float* image, std::int64_t pitch, std::int64_t height, std::int64_t first, std::int64_t rows) {
        for (std::int64_t r = 0; r < rows + 2; ++r) {
            float* to = data.data() + r * line();
            const std::int64_t row = first + r - 1;
            if (row < 0 || row >= height) {
                std::memset(to, 0, sizeof(float) * line());
                continue;
            }
            const float* from = image + row * width * pitch;
            std::memset(to, 0, sizeof(float) * channels);
            if (pitch == channels) {
                std::memcpy(to + channels, from, sizeof(float) * width * channels);
            } else {
                for (std::int64_t p = 0; p < width; ++p)
                    std::memcpy(to + (p + 1) * channels, from + p * pitch, sizeof(float) * channels);
            }
            std::memset(to + (width + 1) * channels, 0, sizeof(float) * channels);
        }
    }
};

// y[p][v] = sum over taps and channels of x[p + tap][channel] * w[tap][channel][v], for P pixels and V vectors.
template <int V, int P>
YK_DIRECT inline void multiply(const float* x, std::int64_t line, std::int64_t channels, const float* w, float* y,
                               std::int64_t pitch) {
    __m256 sum[P][V];
    YK_UNROLL for (int p = 0; p < P; ++p) YK_UNROLL for (int v = 0; v < V; ++v) sum[p][v] = _mm256_setzero_ps();
    for (int row = 0; row < 3; ++row) {
        const float* from = x + row * line;
        for (std::int64_t i = 0; i < 3 * channels; ++i, w += V * kLanes) {  // three taps side by side
            __m256 weight[V];
            YK_UNROLL for (int v = 0; v < V; ++v) weight[v] = _mm256_loadu_ps(w + v * kLanes);
            YK_UNROLL for (int p = 0; p < P; ++p) {
                const __m256 value = _mm256_broadcast_ss(from + p * channels + i);
                YK_UNROLL for (int v = 0; v < V; ++v) sum[p][v] = _mm256_fmadd_ps(value, weight[v], sum[p][v]);
            }
        }
    }
    YK_UNROLL for (int p = 0; p < P; ++p) YK_UNROLL for (int v = 0; v < V; ++v)
        _mm256_storeu_ps(y + p * pitch + v * kLanes, sum[p][v]);
}

// A row of pixels, P at a time; the last ones fewer.
template <int V, int P>
YK_DIRECT void multiply_row(const float* x, std::int64_t line, std::int64_t channels, const float* w, float* y,
                            std::int64_t pitch, std::int64_t width) {
    for (; width >= P; width -= P, x += P * channels, y += P * pitch) multiply<V, P>(x, line, channels, w, y, pitch);
    if constexpr (P > 1) {
        if (width > 0) multiply_row<V, P - 1>(x, line, channels, w, y, pitch, width);
    }
}

// sum[c][v] += x[pixel + tap][c] * g[pixel][v] over a row of pixels, for C channels and V vectors.
template <int V, int C>
YK_DIRECT inline void correlate(const float* x, std::int64_t x_line, std::int64_t x_pitch, const float* g, std::int64_t g_line,
                                std::int64_t g_pitch, std::int64_t rows, std::int64_t width, float* sum,
                                std::int64_t sum_pitch) {
    __m256 total[C][V];
    YK_UNROLL for (int c = 0; c < C; ++c) YK_UNROLL for (int v = 0; v < V; ++v) total[c][v] =
        _mm256_loadu_ps(sum + c * sum_pitch + v * kLanes);
    for (std::int64_t row = 0; row < rows; ++row) {
        const float *from = x + row * x_line, *grad = g + row * g_line;
        for (std::int64_t p = 0; p < width; ++p, from += x_pitch, grad += g_pitch) {
            __m256 value[V];
            YK_UNROLL for (int v = 0; v < V; ++v) value[v] = _mm256_loadu_ps(grad + v * kLanes);
            YK_UNROLL for (int c = 0; c < C; ++c) {
                const __m256 factor = _mm256_broadcast_ss(from + c);
                YK_UNROLL for (int v = 0; v < V; ++v) total[c][v] = _mm256_fmadd_ps(factor, value[v], total[c][v]);
            }
        }
    }
    YK_UNROLL for (int c = 0; c < C; ++c) YK_UNROLL for (int v = 0; v < V; ++v)
        _mm256_storeu_ps(sum + c * sum_pitch + v * kLanes, total[c][v]);
}

template <int V, int C>
YK_DIRECT void correlate_channels(const float* x, std::int64_t x_line, std::int64_t x_pitch, const float* g,
                                  std::int64_t g_line, std::int64_t g_pitch, std::int64_t rows, std::int64_t width, float* sum,
                                  std::int64_t sum_pitch, std::int64_t channels) {
    for (; channels >= C; channels -= C, x += C, sum += C * sum_pitch)
        correlate<V, C>(x, x_line, x_pitch, g, g_line, g_pitch, rows, width, sum, sum_pitch);
    if constexpr (C > 1) {
        if (channels > 0)
            correlate_channels<V, C - 1>(x, x_line, x_pitch, g, g_line, g_pitch, rows, width, sum, sum_pitch, channels);
    }
}

// Rows of a task: a band whose input stays in the cache.
std::int64_t band_rows(std::int64_t height, std::int64_t width, std::int64_t channels) {
    return std::clamp<std::int64_t>(kBandFloats / ((width + 2) * channels) - 2, 1, height);
}

// Weights of one group as `multiply` reads them: block after block of output channels, [tap][input channel][output channel].
// backward: from the gradient of y to that of x, which sees every tap from the other side.
std::vector<float> packed(const ConvWeight& weight, std::int64_t group, std::int64_t in, std::int64_t out, bool backward) {
    std::vector<float> result(static_cast<std::size_t>(kTaps * in * out));
    const Blocks blocks{out / kLanes};
    float* to = result.data();
    for (std::int64_t block = 0, first = 0; block < blocks.count(); first += blocks.size(block++) * kLanes) {
        const std::int64_t wide = blocks.size(block) * kLanes;
        for (std::int64_t tap = 0; tap < kTaps; ++tap)
            for (std::int64_t i = 0; i < in; ++i)
                for (std::int64_t o = first; o < first + wide; ++o)
                    *to++ =
                        backward
                            ? weight.data[(group * in + i) * weight.stride_out + o * weight.stride_in +
                                          (kTaps - 1 - tap) * weight.stride_tap]
                            : weight
                                  .data[(group * out + o) * weight.stride_out + i * weight.stride_in + tap * weight.stride_tap];
    }
    return result;
}

Status convolve(const ConvShape& shape, const ConvMap& x, const ConvWeight& weight, const ConvMap& y, bool backward,
                int threads) {
    const std::int64_t in = (backward ? shape.out : shape.in) / shape.groups;
    const std::int64_t out = (backward ? shape.in : shape.out) / shape.groups;
    const std::int64_t rows = band_rows(shape.height, shape.width, in), bands = (shape.height + rows - 1) / rows;
    std::vector<std::vector<float>> weights;
    for (std::int64_t group = 0; group < shape.groups; ++group) weights.push_back(packed(weight, group, in, out, backward));
    const Blocks blocks{out / kLanes};
    return parallel_for(shape.batch * bands * shape.groups, threads, [&](std::int64_t task) {
        const std::int64_t group = task % shape.groups, band = task / shape.groups % bands, image = task / shape.groups / bands;
        const std::int64_t first = band * rows, count = std::min(rows, shape.height - first);
        const std::int64_t pixel = image * shape.height * shape.width;
        Band from(count, shape.width, in);
        from.fill(x.data + pixel * x.pitch + group * in, x.pitch, shape.height, first, count);
        const float* w = weights[group].data();
        float* to = y.data + (pixel + first * shape.width) * y.pitch + group * out;
        for (std::int64_t block = 0; block < blocks.count(); ++block) {
            const std::int64_t size = blocks.size(block);
            const auto run = size == 1   ? multiply_row<1, pixels_of(1)>
                             : size == 2 ? multiply_row<2, pixels_of(2)>
                                         : multiply_row<3, pixels_of(3)>;
            for (std::int64_t row = 0; row < count; ++row)
                run(from.data.data() + row * from.line(), from.line(), in, w, to + row * shape.width * y.pitch, y.pitch,
                    shape.width);
            w += kTaps * in * size * kLanes;
            to += size * kLanes;
        }
    });
}

// [tap][input channel][output channel] of one group, added to `sum`, over rows first ... first + count of an image.
void add_correlation(const Band& from, const float* grad, std::int64_t pitch, std::int64_t count, std::int64_t out,
                     float* sum) {
    const Blocks blocks{out / kLanes};
    for (std::int64_t block = 0, o = 0; block < blocks.count(); o += blocks.size(block++) * kLanes) {
        const std::int64_t size = blocks.size(block);
        const auto run = size == 1   ? correlate_channels<1, pixels_of(1)>
                         : size == 2 ? correlate_channels<2, pixels_of(2)>
                                     : correlate_channels<3, pixels_of(3)>;
        for (std::int64_t tap = 0; tap < kTaps; ++tap)
            run(from.data.data() + tap / 3 * from.line() + tap % 3 * from.channels, from.line(), from.channels, grad + o,
                from.width * pitch, pitch, count, from.width, sum + tap * from.channels * out + o, out, from.channels);
    }
}

Status check(const ConvShape& shape, const ConvMap& x, const ConvMap& y, const ConvWeight& weight) {
    if (shape.batch < 1 || shape.height < 1 || shape.width < 1 || shape.groups < 1) return bad_argument("the map is empty");
    for (const std::int64_t channels : {shape.in, shape.out})
        if (channels < 1 || channels % (shape.groups * kLanes) != 0)
            return bad_argument("channels of a group are no multiple of 8");
    if (!x.data || !y.data || !weight.data) return bad_argument("an address is null");
    return conv3x3_serves() ? ok() : bad_argument("the processor has no AVX2 and FMA");
}

}  // namespace

bool conv3x3_serves() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && !__builtin_cpu_supports("avx512f");
}

Status conv3x3_cpu(const ConvShape& shape, const ConvMap& x, const ConvWeight& weight, const ConvMap& y, int threads) {
    const Status status = check(shape, x, y, weight);
    return status.code == kOk ? convolve(shape, x, weight, y, false, threads) : status;
}

Status conv3x3_input_gradient_cpu(const ConvShape& shape, const ConvMap& grad, const ConvWeight& weight, const ConvMap& grad_x,
                                  int threads) {
    const Status status = check(shape, grad, grad_x, weight);
    return status.code == kOk ? convolve(shape, grad, weight, grad_x, true, threads) : status;
}

Status conv3x3_weight_gradient_cpu(const ConvShape& shape, const ConvMap& grad, const ConvMap& x, const ConvWeight& grad_weight,
                                   int threads) {
    Status status = check(shape, x, grad, grad_weight);
    if (status.code != kOk) return status;
    const std::int64_t in = shape.in / shape.groups, out = shape.out / shape.groups;
    const std::int64_t rows = band_rows(shape.height, shape.width, in), bands = (shape.height + rows - 1) / rows;
    const std::int64_t all = shape.batch * bands, size = kTaps * in * out;
    const std::int64_t pixels = shape.batch * shape.height * shape.width;
    const std::int64_t chunks = std::min(all, std::clamp<std::int64_t>(pixels / kChunkPixels, 1, kChunks));
    std::vector<float> partial(static_cast<std::size_t>(chunks * shape.groups * size));
    status = parallel_for(chunks * shape.groups, threads, [&](std::int64_t task) {
        const std::int64_t chunk = task / shape.groups, group = task % shape.groups;
        Band from(rows, shape.width, in);
        for (std::int64_t b = all * chunk / chunks; b < all * (chunk + 1) / chunks; ++b) {
            const std::int64_t first = b % bands * rows, count = std::min(rows, shape.height - first);
            const std::int64_t pixel = b / bands * shape.height * shape.width;
            from.fill(x.data + pixel * x.pitch + group * in, x.pitch, shape.height, first, count);
            add_correlation(from, grad.data + (pixel + first * shape.width) * grad.pitch + group * out, grad.pitch, count, out,
                            partial.data() + task * size);
        }
    });
    for (std::int64_t chunk = 1; chunk < chunks; ++chunk)
        for (std::int64_t at = 0; at < shape.groups * size; ++at) partial[at] += partial[chunk * shape.groups * size + at];
    for (std::int64_t group = 0; group < shape.groups; ++group)
        for (std::int64_t o = 0; o < out; ++o)
            for (std::int64_t tap = 0; tap < kTaps; ++tap)
                for (std::int64_t i = 0; i < in; ++i)
                    grad_weight.data[(group * out + o) * grad_weight.stride_out + i * grad_weight.stride_in +
                                     tap * grad_weight.stride_tap] = partial[group * size + (tap * in + i) * out + o];
    return status;
}

#else

bool conv3x3_serves() { return false; }

Status conv3x3_cpu(const ConvShape&, const ConvMap&, const ConvWeight&, const ConvMap&, int) {
    return bad_argument("compiled for another processor");
}

Status conv3x3_input_gradient_cpu(const ConvShape&, const ConvMap&, const ConvWeight&, const ConvMap&, int) {
    return bad_argument("compiled for another processor");
}

Status conv3x3_weight_gradient_cpu(const ConvShape&, const ConvMap&, const ConvMap&, const ConvWeight&, int) {
    return bad_argument("compiled for another processor");
}

#endif

}  // namespace yk
