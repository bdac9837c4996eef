// Minimal filtering with tiles of 2x2 pixels (Winograd 1980; Lavin and Gray 2016, F(2x2, 3x3)) for AVX2 and FMA: 16 products a
// tile and pair of channels in place of 36. For the gradient of the weights the tile of gradients is the filter and the nine
// taps are the result, F(3x3, 2x2), over the same transformed input.
#pragma once

#include <cstdint>

#include "conv3x3.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define YK_FMA __attribute__((target("avx2,fma")))
#define YK_FMA_INLINE __attribute__((target("avx2,fma"), always_inline)) inline
#define YK_UNROLL _Pragma("GCC unroll 16")  // before arrays are made registers, or they are kept in memory too
#endif

#ifdef YK_FMA

namespace yk {

using Vector = __m256;

constexpr std::int64_t kLanes = 8;    // floats of a vector
constexpr std::int64_t kTaps = 9;
constexpr std::int64_t kPoints = 16;  // products of a tile

// Blocks of output channels, in vectors: pairs, and for an odd count a last block of three (of one, where there is but one).
// Registers hold 12 sums: 6 tiles of a pair, 4 of three vectors, 12 of one.
struct Blocks {
    std::int64_t vectors;

    std::int64_t count() const { return vectors % 2 && vectors > 1 ? vectors / 2 : (vectors + 1) / 2; }
    std::int64_t size(std::int64_t block) const { return block + 1 < count() ? 2 : vectors - 2 * block; }
};

constexpr int rows_of(int vectors) { return vectors == 1 ? 12 : vectors == 2 ? 6 : 4; }

// The four transforms in one dimension, of the points 0, 1, -1 and infinity.
struct OfInput {
    static constexpr int kFrom = 4, kTo = 4;
    static YK_FMA_INLINE void run(const Vector* d, Vector* m) {
        m[0] = d[0] - d[2], m[1] = d[1] + d[2], m[2] = d[2] - d[1], m[3] = d[1] - d[3];
    }
};

struct OfWeight {
    static constexpr int kFrom = 3, kTo = 4;
    static YK_FMA_INLINE void run(const Vector* g, Vector* m) {
        const Vector half = _mm256_set1_ps(0.5f), ends = (g[0] + g[2]) * half, middle = g[1] * half;
        m[0] = g[0], m[1] = ends + middle, m[2] = ends - middle, m[3] = g[2];
    }
};

struct OfGradient {
    static constexpr int kFrom = 2, kTo = 4;
    static YK_FMA_INLINE void run(const Vector* g, Vector* m) {
        const Vector half = _mm256_set1_ps(0.5f);
        m[0] = g[0], m[1] = (g[0] + g[1]) * half, m[2] = (g[0] - g[1]) * half, m[3] = g[1];
    }
};

struct ToOutput {
    static constexpr int kFrom = 4, kTo = 2;
    static YK_FMA_INLINE void run(const Vector* m, Vector* y) { y[0] = m[0] + m[1] + m[2], y[1] = m[1] - m[2] - m[3]; }
};

struct ToWeight {
    static constexpr int kFrom = 4, kTo = 3;
    static YK_FMA_INLINE void run(const Vector* m, Vector* w) {
        const Vector sum = m[1] + m[2];
        w[0] = m[0] + sum, w[1] = m[1] - m[2], w[2] = sum - m[3];
    }
};

// A transform of rows, then of columns.
template <typename Transform>
YK_FMA_INLINE void transform(const Vector* from, Vector* to) {
    constexpr int kFrom = Transform::kFrom, kTo = Transform::kTo;
    Vector half[kFrom * kTo];
    YK_UNROLL for (int row = 0; row < kFrom; ++row) Transform::run(from + row * kFrom, half + row * kTo);
    YK_UNROLL for (int column = 0; column < kTo; ++column) {
        Vector line[kFrom], result[kTo];
        YK_UNROLL for (int row = 0; row < kFrom; ++row) line[row] = half[row * kTo + column];
        Transform::run(line, result);
        YK_UNROLL for (int row = 0; row < kTo; ++row) to[row * kTo + column] = result[row];
    }
}

// The pixels of a tile, transformed: points at `to`, `apart` floats from each other.
template <typename Transform>
YK_FMA void spread(const float* const* pixels, std::int64_t channels, float* to, std::int64_t apart) {
    constexpr int kFrom = Transform::kFrom * Transform::kFrom;
    for (std::int64_t c = 0; c < channels; c += kLanes) {
        Vector from[kFrom], points[kPoints];
        YK_UNROLL for (int i = 0; i < kFrom; ++i) from[i] = _mm256_loadu_ps(pixels[i] + c);
        transform<Transform>(from, points);
        YK_UNROLL for (int i = 0; i < kPoints; ++i) _mm256_storeu_ps(to + i * apart + c, points[i]);
    }
}

// The pixels of a tile from its points.
YK_FMA inline void join(const float* from, std::int64_t apart, std::int64_t channels, float* const* pixels) {
    for (std::int64_t c = 0; c < channels; c += kLanes) {
        Vector points[kPoints], to[4];
        YK_UNROLL for (int i = 0; i < kPoints; ++i) points[i] = _mm256_loadu_ps(from + i * apart + c);
        transform<ToOutput>(points, to);
        YK_UNROLL for (int i = 0; i < 4; ++i) _mm256_storeu_ps(pixels[i] + c, to[i]);
    }
}

// y[r][v] = sum over channels of x[r][channel] * w[channel][v], for R rows and V vectors.
template <int V, int R>
YK_FMA inline void multiply(const float* x, std::int64_t x_pitch, std::int64_t channels, const float* w, float* y,
                            std::int64_t y_pitch) {
    Vector sum[R][V];
    YK_UNROLL for (int r = 0; r < R; ++r) YK_UNROLL for (int v = 0; v < V; ++v) sum[r][v] = _mm256_setzero_ps();
    for (std::int64_t i = 0; i < channels; ++i, w += V * kLanes) {
        Vector weight[V];
        YK_UNROLL for (int v = 0; v < V; ++v) weight[v] = _mm256_loadu_ps(w + v * kLanes);
        YK_UNROLL for (int r = 0; r < R; ++r) {
            const Vector value = _mm256_broadcast_ss(x + r * x_pitch + i);
            YK_UNROLL for (int v = 0; v < V; ++v) sum[r][v] = _mm256_fmadd_ps(value, weight[v], sum[r][v]);
        }
    }
    YK_UNROLL for (int r = 0; r < R; ++r) YK_UNROLL for (int v = 0; v < V; ++v)
        _mm256_storeu_ps(y + r * y_pitch + v * kLanes, sum[r][v]);
}

// All rows, R at a time; the last ones fewer.
template <int V, int R>
YK_FMA void multiply_rows(const float* x, std::int64_t x_pitch, std::int64_t channels, const float* w, float* y,
                          std::int64_t y_pitch, std::int64_t rows) {
    for (; rows >= R; rows -= R, x += R * x_pitch, y += R * y_pitch) multiply<V, R>(x, x_pitch, channels, w, y, y_pitch);
    if constexpr (R > 1) {
        if (rows > 0) multiply_rows<V, R - 1>(x, x_pitch, channels, w, y, y_pitch, rows);
    }
}

// sum[c][v] = sum over rows of x[row][c] * g[row][v], for C channels and V vectors. more: added to what is there.
template <int V, int C>
YK_FMA inline void correlate(const float* x, std::int64_t x_pitch, const float* g, std::int64_t g_pitch, std::int64_t rows,
                             bool more, float* sum, std::int64_t sum_pitch) {
    Vector total[C][V];
    YK_UNROLL for (int c = 0; c < C; ++c) YK_UNROLL for (int v = 0; v < V; ++v) total[c][v] =
        more ? _mm256_loadu_ps(sum + c * sum_pitch + v * kLanes) : _mm256_setzero_ps();
    for (std::int64_t row = 0; row < rows; ++row, x += x_pitch, g += g_pitch) {
        Vector value[V];
        YK_UNROLL for (int v = 0; v < V; ++v) value[v] = _mm256_loadu_ps(g + v * kLanes);
        YK_UNROLL for (int c = 0; c < C; ++c) {
            const Vector factor = _mm256_broadcast_ss(x + c);
            YK_UNROLL for (int v = 0; v < V; ++v) total[c][v] = _mm256_fmadd_ps(factor, value[v], total[c][v]);
        }
    }
    YK_UNROLL for (int c = 0; c < C; ++c) YK_UNROLL for (int v = 0; v < V; ++v)
        _mm256_storeu_ps(sum + c * sum_pitch + v * kLanes, total[c][v]);
}

template <int V, int C>
YK_FMA void correlate_channels(const float* x, std::int64_t x_pitch, const float* g, std::int64_t g_pitch, std::int64_t rows,
                               bool more, float* sum, std::int64_t sum_pitch, std::int64_t channels) {
    for (; channels >= C; channels -= C, x += C, sum += C * sum_pitch)
        correlate<V, C>(x, x_pitch, g, g_pitch, rows, more, sum, sum_pitch);
    if constexpr (C > 1) {
        if (channels > 0) correlate_channels<V, C - 1>(x, x_pitch, g, g_pitch, rows, more, sum, sum_pitch, channels);
    }
}

YK_FMA_INLINE Vector load_apart(const float* from, std::int64_t stride) {
    if (stride == 1) return _mm256_loadu_ps(from);
    return _mm256_setr_ps(from[0], from[stride], from[2 * stride], from[3 * stride], from[4 * stride], from[5 * stride],
                          from[6 * stride], from[7 * stride]);
}

// Transformed weights of a block of output channels as `multiply` reads them: [point][input channel][output channel].
// weight: seen from where it is read, rows are output channels. backward: taps from the other side.
YK_FMA inline void pack(const ConvWeight& weight, std::int64_t in, std::int64_t wide, bool backward, float* to) {
    for (std::int64_t i = 0; i < in; ++i)
        for (std::int64_t o = 0; o < wide; o += kLanes) {
            Vector taps[kTaps], points[kPoints];
            const float* from = weight.data + o * weight.stride_out + i * weight.stride_in;
            YK_UNROLL for (int tap = 0; tap < kTaps; ++tap) taps[tap] =
                load_apart(from + (backward ? kTaps - 1 - tap : tap) * weight.stride_tap, weight.stride_out);
            transform<OfWeight>(taps, points);
            YK_UNROLL for (int point = 0; point < kPoints; ++point)
                _mm256_storeu_ps(to + (point * in + i) * wide + o, points[point]);
        }
}

// The taps of one group's gradient from its points, which are those of all chunks.
YK_FMA inline void unpack(const float* partial, std::int64_t chunks, std::int64_t apart, std::int64_t in, std::int64_t out,
                          const ConvWeight& to) {
    for (std::int64_t i = 0; i < in; ++i)
        for (std::int64_t o = 0; o < out; o += kLanes) {
            Vector points[kPoints], taps[kTaps];
            YK_UNROLL for (int point = 0; point < kPoints; ++point) {
                const float* from = partial + (point * in + i) * out + o;
                points[point] = _mm256_loadu_ps(from);
                for (std::int64_t chunk = 1; chunk < chunks; ++chunk) points[point] += _mm256_loadu_ps(from + chunk * apart);
            }
            transform<ToWeight>(points, taps);
            alignas(32) float values[kTaps][kLanes];
            YK_UNROLL for (int tap = 0; tap < kTaps; ++tap) _mm256_store_ps(values[tap], taps[tap]);
            for (std::int64_t lane = 0; lane < kLanes; ++lane)
                for (std::int64_t tap = 0; tap < kTaps; ++tap)
                    to.data[(o + lane) * to.stride_out + i * to.stride_in + tap * to.stride_tap] = values[tap][lane];
        }
}

}  // namespace yk

#endif
