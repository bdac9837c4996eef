// The host backend of augment: row by row, in one pass from the decoded images to the batch. Where the four neighbors of
// every pixel of a run lie in one image they are blended without a test, two pixels at a time where there is AVX2.
#include <algorithm>
#include <cstring>
#include <vector>

#include "augment.cuh"
#include "clones.h"
#include "threads.h"

#if defined(YK_AVX2)
#include <immintrin.h>
#endif

namespace yk {

namespace {

struct Run {
    int begin, end;
    bool empty() const { return begin >= end; }
};

Run both(Run a, Run b) { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }
Run hull(Run a, Run b) { return {std::min(a.begin, b.begin), std::max(a.end, b.end)}; }

// Where a row touches a layer, as one of the two coordinates has it: pixels of which a neighbor lies in it, and those of
// which both do.
struct Reach {
    Run touched, inner;
};

// The pixels whose places are low..high-1, of a row of places that only rise or only fall.
Run between(const int* places, int count, int low, int high) {
    const bool rises = places[0] <= places[count - 1];
    const auto first = [&](int limit) {
        const auto before = [&](int place) { return rises ? place < limit : place >= limit; };
        return static_cast<int>(std::partition_point(places, places + count, before) - places);
    };
    return rises ? Run{first(low), first(high)} : Run{first(high), first(low)};
}

// Of a view that is not in perspective. Most layers are out of a row's way, which its ends tell.
Reach reach_flat(const int* places, int count, int low, int length) {
    const auto [lowest, highest] = std::minmax(places[0], places[count - 1]);
    if (highest < low - kFraction || lowest >= low + length) return {{0, 0}, {0, 0}};
    return {between(places, count, low - kFraction, low + length), between(places, count, low, low + length - kFraction)};
}

YK_CLONES Run extent(const int* places, int count) {
    int lowest = places[0], highest = places[0];
    for (int x = 0; x < count; ++x) {
        lowest = min_of(lowest, places[x]);
        highest = max_of(highest, places[x]);
    }
    return {lowest, highest};
}

// Of a view in perspective, whose places lie within `bounds`; rounding may break a run: its pixels are then tested one by one.
Reach reach_tilted(const int* places, int count, int low, int length, Run bounds) {
    if (bounds.end < low - kFraction || bounds.begin >= low + length) return {{0, 0}, {0, 0}};
    const auto touching = static_cast<unsigned>(length + kFraction), inside = static_cast<unsigned>(length - kFraction);
    Reach found{{count, 0}, {count, 0}};
    int inner = 0;
    for (int x = 0; x < count; ++x) {
        if (static_cast<unsigned>(places[x] - low + kFraction) >= touching) continue;
        found.touched = {min_of(found.touched.begin, x), x + 1};
        if (static_cast<unsigned>(places[x] - low) >= inside) continue;
        found.inner = {min_of(found.inner.begin, x), x + 1};
        ++inner;
    }
    if (inner != found.inner.end - found.inner.begin) found.inner = {0, 0};
    return found;
}

Reach reach(const std::vector<int>& places, bool flat, Run bounds, std::int64_t start, std::int64_t length) {
    const int count = static_cast<int>(places.size()), low = static_cast<int>(start) * kFraction;
    const int extended = static_cast<int>(length) * kFraction;
    return flat ? reach_flat(places.data(), count, low, extended) : reach_tilted(places.data(), count, low, extended, bounds);
}

// One of a sample's views. Upright: no rotation, shear or tilt, so that all rows have the same columns.
struct View {
    const PlacedImage* layers;
    int count;
    const float* m;
    bool flat, upright;
    int next;           // row of the canvas that the next row begins with, where the view is upright
    Run columns, rows;  // bounds of the places of a row in perspective
    std::vector<int> column, row, offset;  // offset: bytes from where `origin` points
    std::vector<Reach> across;             // of each layer, where the view is upright
};

YK_CLONES void set_places(const float* m, int y, int width, bool flat, int* column, int* row) {
    const float down = static_cast<float>(y);
    const float c = m[1] * down + m[2], r = m[4] * down + m[5], d = m[7] * down + m[8];
    if (flat) {
        for (int x = 0; x < width; ++x) column[x] = place(m[0] * static_cast<float>(x) + c);
        for (int x = 0; x < width; ++x) row[x] = place(m[3] * static_cast<float>(x) + r);
        return;
    }
    for (int x = 0; x < width; ++x) {
        const float right = static_cast<float>(x), depth = m[6] * right + d;
        column[x] = place((m[0] * right + c) / depth);
        row[x] = place((m[3] * right + r) / depth);
    }
}

View make_view(const AugmentInput& in, const PlacedImage* all_placed, std::int64_t number) {
    const float* m = in.matrices + 9 * number;
    const std::int64_t* pair = in.ranges + 2 * number;
    const bool flat = m[6] == 0.0f && m[7] == 0.0f && m[8] == 1.0f;
    View view{all_placed + pair[0],
              static_cast<int>(pair[1] - pair[0]),
              m,
              flat,
              flat && m[1] == 0.0f && m[3] == 0.0f,
              0,
              {},
              {},
              std::vector<int>(in.width),
              std::vector<int>(in.width),
              std::vector<int>(in.width),
              {}};
    if (!view.upright) return view;
    set_places(m, 0, static_cast<int>(in.width), flat, view.column.data(), view.row.data());
    for (int x = 0; x < in.width; ++x) view.offset[x] = 3 * (view.column[x] >> kFractionBits);
    for (int k = 0; k < view.count; ++k)
        view.across.push_back(reach(view.column, true, {}, view.layers[k].left, view.layers[k].width));
    return view;
}

std::uint32_t blend_pixel(const std::uint8_t* p, std::int64_t stride, int right, int below) {
    const std::uint8_t* q = p + stride;
    return bilinear({p[0], p[1], p[2]}, {p[3], p[4], p[5]}, {q[0], q[1], q[2]}, {q[3], q[4], q[5]}, right, below);
}

// Pixels begin..end-1 of a row, whose four neighbors lie in one image of `stride` bytes a row, at their offsets.
void blend_run(const std::uint8_t* origin, std::int64_t stride, const View& view, Run run, std::uint32_t* out) {
    for (int x = run.begin; x < run.end; ++x)
        out[x] = blend_pixel(origin + view.offset[x], stride, view.column[x] & (kFraction - 1), view.row[x] & (kFraction - 1));
}

#ifdef YK_AVX2
// Eight bytes of each of two pixels, which hold the pixel and the next one, as pairs of 16 bits a channel.
YK_AVX2 inline __m256i pairs(const std::uint8_t* a, const std::uint8_t* b) {
    const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(a));
    const __m128i high = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(b));
    const __m256i order = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
                                           0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
    return _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1), order);
}

// Two pixels, a channel 32 bits; `across` holds their weights in pairs, `down` the lower one, in all channels.
YK_AVX2 inline __m256i blend_two(const std::uint8_t* a, const std::uint8_t* b, std::int64_t stride, __m256i across,
                                 __m256i down) {
    const __m256i upper = _mm256_madd_epi16(pairs(a, b), across);
    const __m256i lower = _mm256_madd_epi16(pairs(a + stride, b + stride), across);
    const __m256i half = _mm256_set1_epi32(1 << (2 * kFractionBits - 1));
    // upper * (kFraction - down) + lower * down
    const __m256i sum =
        _mm256_add_epi32(_mm256_slli_epi32(upper, kFractionBits), _mm256_mullo_epi32(_mm256_sub_epi32(lower, upper), down));
    return _mm256_srli_epi32(_mm256_add_epi32(sum, half), 2 * kFractionBits);
}

// The same sums four pixels at a time; reads kBeyond bytes past a pixel's right neighbor.
constexpr int kBeyond = 2;
YK_AVX2 void blend_run_avx2(const std::uint8_t* origin, std::int64_t stride, const View& view, Run run, std::uint32_t* out) {
    const int *column = view.column.data(), *row = view.row.data(), *offset = view.offset.data();
    const __m128i part = _mm_set1_epi32(kFraction - 1), whole = _mm_set1_epi32(kFraction);
    const __m256i first = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1), second = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    int x = run.begin;
    for (; x + 4 <= run.end; x += 4) {
        const __m128i right = _mm_and_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(column + x)), part);
        const __m128i below = _mm_and_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + x)), part);
        const __m256i sides = _mm256_castsi128_si256(_mm_or_si128(_mm_slli_epi32(right, 16), _mm_sub_epi32(whole, right)));
        const __m256i depths = _mm256_castsi128_si256(below);
        const __m256i front = blend_two(origin + offset[x], origin + offset[x + 1], stride,
                                        _mm256_permutevar8x32_epi32(sides, first), _mm256_permutevar8x32_epi32(depths, first));
        const __m256i back = blend_two(origin + offset[x + 2], origin + offset[x + 3], stride,
                                       _mm256_permutevar8x32_epi32(sides, second), _mm256_permutevar8x32_epi32(depths, second));
        const __m256i words = _mm256_packus_epi32(front, back);  // pixels 0 2 in the low half, 1 3 in the high one
        const __m256i done = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(words, words), order);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x), _mm256_castsi256_si128(done));
    }
    blend_run(origin, stride, view, {x, run.end}, out);
}
#endif

YK_CLONES void set_offsets(const int* column, const int* row, const PlacedImage& layer, Run run, int* offset) {
    const int left = static_cast<int>(layer.left), top = static_cast<int>(layer.top), stride = static_cast<int>(layer.stride);
    for (int x = run.begin; x < run.end; ++x)
        offset[x] = ((row[x] >> kFractionBits) - top) * stride + 3 * ((column[x] >> kFractionBits) - left);
}

constexpr int kLine = 64;  // bytes that a processor fetches at once

// What the next row will read, on its way while this one is computed.
void fetch_next([[maybe_unused]] const View& view, [[maybe_unused]] const PlacedImage& layer, [[maybe_unused]] Run run) {
#if defined(__GNUC__)  // a hint alone, which MSVC writes otherwise
    const std::int64_t row = std::max<std::int64_t>(std::min(view.next - layer.top, layer.height - 2), 0);
    const auto [first, last] = std::minmax(view.offset[run.begin], view.offset[run.end - 1]);
    const std::uint8_t* upper = layer.image + row * layer.stride - 3 * layer.left;
    for (int at = first; at < last + kLine; at += kLine) {
        __builtin_prefetch(upper + at);
        __builtin_prefetch(upper + at + layer.stride);
    }
#endif
}

// At least the offset, from the layer's first byte, of every pixel of a run.
int greatest_offset(const View& view, const PlacedImage& layer, Run run) {
    if (!view.flat) return *std::max_element(view.offset.begin() + run.begin, view.offset.begin() + run.end);
    const int column = max_of(view.column[run.begin], view.column[run.end - 1]) >> kFractionBits;
    const int row = max_of(view.row[run.begin], view.row[run.end - 1]) >> kFractionBits;
    return (row - static_cast<int>(layer.top)) * static_cast<int>(layer.stride) + 3 * (column - static_cast<int>(layer.left));
}

void paint_run(View& view, const PlacedImage& layer, Run run, std::uint32_t* out) {
    if (run.empty()) return;
    const std::uint8_t* origin = layer.image;
    if (view.upright) {
        fetch_next(view, layer, run);
        origin += ((view.row[0] >> kFractionBits) - layer.top) * layer.stride - 3 * layer.left;
    } else {
        set_offsets(view.column.data(), view.row.data(), layer, run, view.offset.data());
    }
#ifdef YK_AVX2
    static const bool wide = __builtin_cpu_supports("avx2");
    if (wide && greatest_offset(view, layer, run) + layer.stride + 6 + kBeyond <= layer.end - layer.image)
        return blend_run_avx2(origin, layer.stride, view, run, out);
#endif
    blend_run(origin, layer.stride, view, run, out);
}

// Pixels that layer k may cover in part: where it covers none of the four neighbors what lies below stays.
void paint_edge(const View& view, int k, Run run, std::uint32_t* out) {
    const PlacedImage& layer = view.layers[k];
    for (int x = run.begin; x < run.end; ++x) {
        const int column = view.column[x] >> kFractionBits, row = view.row[x] >> kFractionBits;
        int covered = 0;
        for (int i = 0; i < 4; ++i) covered += holds(layer, column + (i & 1), row + (i >> 1));
        if (!covered) continue;
        const int right = view.column[x] & (kFraction - 1), below = view.row[x] & (kFraction - 1);
        if (covered == 4) {
            const std::int64_t inside = (row - layer.top) * layer.stride + 3 * (column - layer.left);
            out[x] = blend_pixel(layer.image + inside, layer.stride, right, below);
            continue;
        }
        Color four[4];
        for (int i = 0; i < 4; ++i) four[i] = unpack(canvas_color(view.layers, k + 1, column + (i & 1), row + (i >> 1)));
        out[x] = bilinear(four[0], four[1], four[2], four[3], right, below);
    }
}

YK_CLONES void fill(std::uint32_t* row, int count, std::uint32_t value) {
    for (int x = 0; x < count; ++x) row[x] = value;
}

YK_CLONES void fill(int* row, int count, int value) {
    for (int x = 0; x < count; ++x) row[x] = value;
}

// Where an upright view's row touches what is opaque of a layer with a mask, and where all four neighbors are.
Reach reach_opaque(const View& view, const PlacedImage& layer) {
    const std::int64_t row = (view.row[0] >> kFractionBits) - layer.top;
    const Opaque none{0, 0, false};
    const Opaque upper = row < 0 || row >= layer.height ? none : layer.opaque[row];
    const Opaque under = row + 1 < 0 || row + 1 >= layer.height ? none : layer.opaque[row + 1];
    const int begin = upper.end && under.end ? min_of(upper.begin, under.begin) : max_of(upper.begin, under.begin);
    const Run some{begin, max_of(upper.end, under.end)};
    const Run all{max_of(upper.begin, under.begin), upper.solid && under.solid ? min_of(upper.end, under.end) : 0};
    const auto across = [&](Run columns) {
        const int low = (static_cast<int>(layer.left) + columns.begin) * kFraction;
        const int length = (columns.end - columns.begin) * kFraction;
        return reach_flat(view.column.data(), static_cast<int>(view.column.size()), low, length);
    };
    if (some.empty()) return {{0, 0}, {0, 0}};
    return {across(some).touched, all.empty() ? Run{0, 0} : across(all).inner};
}

// One row of a view, BGR in the low bytes of each word; returns where it may be other than gray.
Run view_row(const AugmentInput& in, View& view, int y, std::uint32_t* out) {
    const int width = static_cast<int>(in.width);
    fill(out, width, kGray);
    Run seen{width, 0};
    if (view.upright) {  // what set_places would compute, once
        const float down = static_cast<float>(y);
        fill(view.row.data(), width, place(view.m[4] * down + view.m[5]));
        view.next = place(view.m[4] * (down + 1.0f) + view.m[5]) >> kFractionBits;
    } else {
        set_places(view.m, y, width, view.flat, view.column.data(), view.row.data());
        if (!view.flat) view.columns = extent(view.column.data(), width), view.rows = extent(view.row.data(), width);
    }
    for (int k = 0; k < view.count; ++k) {
        const PlacedImage& layer = view.layers[k];
        if (!layer.image) continue;
        const Reach down = reach(view.row, view.flat, view.rows, layer.top, layer.height);
        if (down.touched.empty()) continue;
        Reach across = view.upright ? view.across[k] : reach(view.column, view.flat, view.columns, layer.left, layer.width);
        if (layer.mask) across = view.upright ? reach_opaque(view, layer) : Reach{across.touched, {0, 0}};
        const Run touched = both(across.touched, down.touched);
        Run inner = both(across.inner, down.inner);
        if (touched.empty()) continue;
        seen = hull(seen, touched);
        if (inner.empty()) inner = {touched.end, touched.end};
        paint_edge(view, k, {touched.begin, inner.begin}, out);
        paint_run(view, layer, inner, out);
        paint_edge(view, k, {inner.end, touched.end}, out);
    }
    return seen;
}

YK_CLONES void mix_row(std::uint8_t* first, const std::uint8_t* second, int count, int weight) {
    for (int i = 0; i < count; ++i)
        first[i] = static_cast<std::uint8_t>((first[i] * weight + second[i] * (kUnit - weight) + kUnit / 2) >> kUnitBits);
}

// In two loops: one would be so long a chain of operations that a processor has too few pixels under way at a time.
YK_CLONES void recolor_run(std::uint32_t* row, Run run, int hue, int saturation, int value) {
    constexpr int kBlock = 128;
    int hues[kBlock], products[kBlock], values[kBlock];
    for (; run.begin < run.end; run.begin += kBlock) {
        const int count = min_of(run.end - run.begin, kBlock);
        std::uint32_t* some = row + run.begin;
        for (int x = 0; x < count; ++x) {
            const Shade shade = to_shade(some[x], hue, saturation, value);
            hues[x] = shade.hue, products[x] = shade.product, values[x] = shade.value;
        }
        for (int x = 0; x < count; ++x) some[x] = from_shade({hues[x], products[x], values[x]});
    }
}

YK_CLONES void write_bytes(const std::uint32_t* row, int width, int shift, std::uint8_t* out) {
    for (int x = 0; x < width; ++x) out[x] = static_cast<std::uint8_t>(row[x] >> shift);
}

template <typename T>
void write_row(const std::uint32_t* row, int width, const AugmentOutput& out, std::int64_t start) {
    const T* levels = static_cast<const T*>(out.levels);
    for (int channel = 0; channel < 3; ++channel) {
        T* line = static_cast<T*>(out.images) + start + channel * out.stride_channel;
        const int shift = 16 - 8 * channel;  // red first
        if (sizeof(T) == 1 && out.stride_pixel == 1) {
            write_bytes(row, width, shift, reinterpret_cast<std::uint8_t*>(line));
            continue;
        }
        for (int x = 0; x < width; ++x) line[x * out.stride_pixel] = levels[row[x] >> shift & 255];
    }
}

template <typename T>
void make_image(const AugmentInput& in, const PlacedImage* all_placed, const AugmentOutput& out, std::int64_t image) {
    const int width = static_cast<int>(in.width), weight = fixed(in.mix_weights[image], 1.0f);
    const float* gain = in.hsv_gains + 3 * image;
    const int hue = fixed(gain[0], 2.0f), saturation = fixed(gain[1], 2.0f), value = fixed(gain[2], 2.0f);
    const bool recolored = hue != kUnit || saturation != kUnit || value != kUnit;
    const std::uint32_t gray = recolor(kGray, hue, saturation, value);
    View first = make_view(in, all_placed, 2 * image), second = make_view(in, all_placed, 2 * image + 1);
    std::vector<std::uint32_t> row(width), other(width);
    for (int y = 0; y < in.height; ++y) {
        Run seen = view_row(in, first, y, row.data());
        if (weight != kUnit) {
            seen = hull(seen, view_row(in, second, y, other.data()));
            mix_row(reinterpret_cast<std::uint8_t*>(row.data()), reinterpret_cast<std::uint8_t*>(other.data()), 4 * width,
                    weight);
        }
        if (recolored) {  // gray is of one color before and after
            recolor_run(row.data(), seen, hue, saturation, value);
            std::fill(row.begin(), row.begin() + std::min(seen.begin, width), gray);
            std::fill(row.begin() + std::max(seen.end, std::min(seen.begin, width)), row.end(), gray);
        }
        write_row<T>(row.data(), width, out, image * out.stride_image + y * out.stride_row);
    }
}

}  // namespace

Status augment_cpu(const AugmentInput& in, const AugmentOutput& out, int threads) {
    PlacedImages all_placed;
    const Status status = place_layers(in, out, all_placed);
    if (status.code != kOk) return status;
    const PlacedImage* first = all_placed.each.data();
    return parallel_for(in.images, threads, [&](std::int64_t image) {
        if (out.element == 1) return make_image<std::uint8_t>(in, first, out, image);
        if (out.element == 2) return make_image<std::uint16_t>(in, first, out, image);
        make_image<std::uint32_t>(in, first, out, image);
    });
}

}  // namespace yk
