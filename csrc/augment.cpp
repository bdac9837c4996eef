// The host backend of augment: row by row, in one pass from the decoded pictures to the batch. Where the four neighbours of
// every pixel of a run lie in one picture they are blended without a test, two pixels at a time where there is AVX2.
#include <algorithm>
#include <cstring>
#include <vector>

#include "augment.cuh"
#include "threads.h"

#if defined(__x86_64__) && defined(__gnu_linux__)
#include <immintrin.h>
#define YK_AVX2 __attribute__((target("avx2")))
#endif
#if defined(YK_AVX2) && !defined(__SANITIZE_THREAD__)                // which does not run yet when the choice is made
#define YK_CLONES __attribute__((target_clones("avx2", "default")))  // chosen when the module is loaded
#else
#define YK_CLONES
#endif

namespace yk {

namespace {

struct Run {
    int begin, end;
    bool empty() const { return begin >= end; }
};

Run both(Run a, Run b) { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }
Run hull(Run a, Run b) { return {std::min(a.begin, b.begin), std::max(a.end, b.end)}; }

// Where a row touches a layer, as one of the two coordinates has it: pixels of which a neighbour lies in it, and those of
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
    const auto [least, most] = std::minmax(places[0], places[count - 1]);
    if (most < low - kFraction || least >= low + length) return {{0, 0}, {0, 0}};
    return {between(places, count, low - kFraction, low + length), between(places, count, low, low + length - kFraction)};
}

YK_CLONES Run extent(const int* places, int count) {
    int lowest = places[0], highest = places[0];
    for (int x = 0; x < count; ++x) {
        lowest = least(lowest, places[x]);
        highest = most(highest, places[x]);
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
        found.touched = {least(found.touched.begin, x), x + 1};
        if (static_cast<unsigned>(places[x] - low) >= inside) continue;
        found.inner = {least(found.inner.begin, x), x + 1};
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
    const Picture* layers;
    int count;
    const float* m;
    bool flat, upright;
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

View make_view(const AugmentInput& in, const Picture* pictures, std::int64_t number) {
    const float* m = in.matrices + 9 * number;
    const std::int64_t* span = in.spans + 2 * number;
    const bool flat = m[6] == 0.0f && m[7] == 0.0f && m[8] == 1.0f;
    View view{pictures + span[0], static_cast<int>(span[1] - span[0]), m, flat, flat && m[1] == 0.0f && m[3] == 0.0f, {}, {},
              std::vector<int>(in.width), std::vector<int>(in.width), std::vector<int>(in.width), {}};
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

// Pixels begin..end-1 of a row, whose four neighbours lie in one picture of `stride` bytes a row, at their offsets.
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

// The same sums two pixels at a time; reads kBeyond bytes past a pixel's right neighbour.
constexpr int kBeyond = 2;

YK_AVX2 void blend_run_avx2(const std::uint8_t* picture, std::int64_t stride, const View& view, Run run, std::uint32_t* out) {
    const int *column = view.column.data(), *row = view.row.data(), *offset = view.offset.data();
    const __m128i part = _mm_set1_epi32(kFraction - 1), whole = _mm_set1_epi32(kFraction);
    const __m256i lanes = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1), half = _mm256_set1_epi32(1 << (2 * kFractionBits - 1));
    const __m256i bytes = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
                                           0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    int x = run.begin;
    for (; x + 2 <= run.end; x += 2) {
        const __m128i right = _mm_and_si128(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(column + x)), part);
        const __m128i below = _mm_and_si128(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + x)), part);
        const __m128i sides = _mm_or_si128(_mm_slli_epi32(right, 16), _mm_sub_epi32(whole, right));
        const __m256i across = _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(sides), lanes);
        const __m256i down = _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(below), lanes);
        const std::uint8_t *a = picture + offset[x], *b = picture + offset[x + 1];
        const __m256i upper = _mm256_madd_epi16(pairs(a, b), across);
        const __m256i lower = _mm256_madd_epi16(pairs(a + stride, b + stride), across);
        // upper * (kFraction - down) + lower * down
        const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(upper, kFractionBits),
                                             _mm256_mullo_epi32(_mm256_sub_epi32(lower, upper), down));
        const __m256i done = _mm256_srli_epi32(_mm256_add_epi32(sum, half), 2 * kFractionBits);
        const __m256i packed = _mm256_shuffle_epi8(done, bytes);
        out[x] = static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm256_castsi256_si128(packed)));
        out[x + 1] = static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm256_extracti128_si256(packed, 1)));
    }
    blend_run(picture, stride, view, {x, run.end}, out);
}
#endif

YK_CLONES void set_offsets(const int* column, const int* row, const Picture& layer, Run run, int* offset) {
    const int left = static_cast<int>(layer.left), top = static_cast<int>(layer.top), stride = static_cast<int>(layer.stride);
    for (int x = run.begin; x < run.end; ++x)
        offset[x] = ((row[x] >> kFractionBits) - top) * stride + 3 * ((column[x] >> kFractionBits) - left);
}

void paint_run(View& view, const Picture& layer, Run run, std::uint32_t* out) {
    if (run.empty()) return;
    const std::uint8_t* origin = layer.image;
    if (view.upright) {
        origin += ((view.row[0] >> kFractionBits) - layer.top) * layer.stride - 3 * layer.left;
    } else {
        set_offsets(view.column.data(), view.row.data(), layer, run, view.offset.data());
    }
#ifdef YK_AVX2
    static const bool wide = __builtin_cpu_supports("avx2");
    const int last = view.flat ? most(view.offset[run.begin], view.offset[run.end - 1])
                               : *std::max_element(view.offset.begin() + run.begin, view.offset.begin() + run.end);
    if (wide && last + layer.stride + 6 + kBeyond <= layer.end - origin)
        return blend_run_avx2(origin, layer.stride, view, run, out);
#endif
    blend_run(origin, layer.stride, view, run, out);
}

// Pixels that layer k may cover in part: where it covers none of the four neighbours what lies below stays.
void paint_edge(const View& view, int k, Run run, std::uint32_t* out) {
    const Picture& layer = view.layers[k];
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
        Colour four[4];
        for (int i = 0; i < 4; ++i)
            four[i] = unpack(look(view.layers, k + 1, column + (i & 1), row + (i >> 1)));
        out[x] = bilinear(four[0], four[1], four[2], four[3], right, below);
    }
}

// Pixels whose neighbours all lie in layer k, which has a mask: in runs where it covers all four.
void paint_masked(View& view, int k, Run run, std::uint32_t* out) {
    const Picture& layer = view.layers[k];
    Run opaque{run.begin, run.begin}, partial = opaque;  // one of the two ends at x
    for (int x = run.begin; x < run.end; ++x) {
        const std::int64_t column = (view.column[x] >> kFractionBits) - layer.left;
        const std::uint8_t* m = layer.mask + ((view.row[x] >> kFractionBits) - layer.top) * layer.mask_stride + column;
        const std::uint8_t* below = m + layer.mask_stride;
        if (m[0] && m[1] && below[0] && below[1]) {
            paint_edge(view, k, partial, out);
            partial = {x + 1, x + 1};
            opaque.end = x + 1;
            continue;
        }
        paint_run(view, layer, opaque, out);
        opaque = {x + 1, x + 1};
        const bool clear = !(m[0] || m[1] || below[0] || below[1]);
        if (clear) paint_edge(view, k, partial, out);
        partial = {clear ? x + 1 : partial.begin, x + 1};
    }
    paint_edge(view, k, partial, out);
    paint_run(view, layer, opaque, out);
}

// One row of a view, BGR in the low bytes of each word; returns where it may be other than grey.
Run see_row(const AugmentInput& in, View& view, int y, std::uint32_t* out) {
    const int width = static_cast<int>(in.width);
    std::fill(out, out + width, kGrey);
    Run seen{width, 0};
    if (view.upright) {  // what set_places would compute, once
        const float down = static_cast<float>(y);
        std::fill(view.row.begin(), view.row.end(), place(view.m[4] * down + view.m[5]));
    } else {
        set_places(view.m, y, width, view.flat, view.column.data(), view.row.data());
        if (!view.flat) view.columns = extent(view.column.data(), width), view.rows = extent(view.row.data(), width);
    }
    for (int k = 0; k < view.count; ++k) {
        const Picture& layer = view.layers[k];
        if (!layer.image) continue;
        const Reach down = reach(view.row, view.flat, view.rows, layer.top, layer.height);
        if (down.touched.empty()) continue;
        const Reach across =
            view.upright ? view.across[k] : reach(view.column, view.flat, view.columns, layer.left, layer.width);
        const Run touched = both(across.touched, down.touched);
        Run inner = both(across.inner, down.inner);
        if (!touched.empty()) seen = hull(seen, touched);
        if (inner.empty()) inner = {touched.end, touched.end};
        paint_edge(view, k, {touched.begin, inner.begin}, out);
        layer.mask ? paint_masked(view, k, inner, out) : paint_run(view, layer, inner, out);
        paint_edge(view, k, {inner.end, touched.end}, out);
    }
    return seen;
}

YK_CLONES void mix_row(std::uint8_t* first, const std::uint8_t* second, int count, int share) {
    for (int i = 0; i < count; ++i)
        first[i] = static_cast<std::uint8_t>((first[i] * share + second[i] * (kUnit - share) + kUnit / 2) >> kUnitBits);
}

YK_CLONES void recolour_run(std::uint32_t* row, Run run, int hue, int saturation, int value) {
    for (int x = run.begin; x < run.end; ++x) row[x] = recolour(row[x], hue, saturation, value);
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
void make_image(const AugmentInput& in, const Picture* pictures, const AugmentOutput& out, std::int64_t image) {
    const int width = static_cast<int>(in.width), share = fixed(in.shares[image], 1.0f);
    const float* gain = in.gains + 3 * image;
    const int hue = fixed(gain[0], 2.0f), saturation = fixed(gain[1], 2.0f), value = fixed(gain[2], 2.0f);
    const bool recoloured = hue != kUnit || saturation != kUnit || value != kUnit;
    const std::uint32_t grey = recolour(kGrey, hue, saturation, value);
    View first = make_view(in, pictures, 2 * image), second = make_view(in, pictures, 2 * image + 1);
    std::vector<std::uint32_t> row(width), other(width);
    for (int y = 0; y < in.height; ++y) {
        Run seen = see_row(in, first, y, row.data());
        if (share != kUnit) {
            seen = hull(seen, see_row(in, second, y, other.data()));
            mix_row(reinterpret_cast<std::uint8_t*>(row.data()), reinterpret_cast<std::uint8_t*>(other.data()), 4 * width, share);
        }
        if (recoloured) {  // grey is of one colour before and after
            recolour_run(row.data(), seen, hue, saturation, value);
            std::fill(row.begin(), row.begin() + std::min(seen.begin, width), grey);
            std::fill(row.begin() + std::max(seen.end, std::min(seen.begin, width)), row.end(), grey);
        }
        write_row<T>(row.data(), width, out, image * out.stride_image + y * out.stride_row);
    }
}

using Begins = std::vector<std::int64_t>;  // of each source, and where the last one ends

// Where `span` bytes from `start` on lie in one of the sources, and that one's end; null where they do not.
const std::uint8_t* find(const AugmentInput& in, const Begins& begins, std::int64_t start, std::int64_t span,
                         const std::uint8_t*& end) {
    const auto k = std::upper_bound(begins.begin(), begins.end(), start) - begins.begin() - 1;  // the last that begins there
    if (k < 0 || k >= in.source_count || span > begins[k + 1] - start) return nullptr;
    end = in.sources[k].bytes + in.sources[k].count;
    return in.sources[k].bytes + (start - begins[k]);
}

// False where it lies beyond what is there; one without pixels lies anywhere.
bool place_picture(const AugmentInput& in, const Begins& begins, const Layer& l, Picture& picture) {
    const auto small = [](std::int64_t place) { return place > -kMostPlace && place < kMostPlace; };
    const auto apart = [](std::int64_t stride, std::int64_t width) { return stride >= width && stride < 3 * kMostPlace; };
    if (!small(l.left) || !small(l.top) || !small(l.height) || !small(l.width) || l.height < 0 || l.width < 0) return false;
    picture = {nullptr, nullptr, nullptr, l.height, l.width, l.left, l.top, l.stride, l.mask_stride};
    if (!l.height || !l.width) return true;
    if (l.mask < -1 || !apart(l.stride, 3 * l.width) || (l.mask >= 0 && !apart(l.mask_stride, l.width))) return false;
    const std::int64_t span = (l.height - 1) * l.stride + 3 * l.width;
    const std::uint8_t* end;
    if (l.mask >= 0) picture.mask = find(in, begins, l.mask, (l.height - 1) * l.mask_stride + l.width, end);
    picture.image = span < 1ll << 31 ? find(in, begins, l.start, span, picture.end) : nullptr;
    return picture.image && (picture.mask || l.mask < 0);
}

Status check_augment(const AugmentInput& in, const AugmentOutput& out) {
    if (in.images < 0 || in.height < 1 || in.width < 1 || in.source_count < 0 || in.layer_count < 0)
        return bad_argument("a length is negative");
    if (in.height > 1 << 15 || in.width > 1 << 15) return bad_argument("size is too large");
    if (out.element != 1 && out.element != 2 && out.element != 4) return bad_argument("an element has 1, 2 or 4 bytes");
    if (in.images && (!in.spans || !in.matrices || !in.shares || !in.gains || !out.images || !out.levels))
        return bad_argument("an address is null");
    if (in.layer_count && !in.layers) return bad_argument("the address of the layers is null");
    for (std::int64_t i = 0; i < in.source_count; ++i)
        if (in.sources[i].count < 0 || (in.sources[i].count && !in.sources[i].bytes)) return bad_argument("a source is null");
    for (std::int64_t i = 0; i < 4 * in.images; i += 2)
        if (in.spans[i] < 0 || in.spans[i] > in.spans[i + 1] || in.spans[i + 1] > in.layer_count)
            return bad_argument("spans must be rising, from 0 to at most the number of layers");
    return ok();
}

Status place_pictures(const AugmentInput& in, std::vector<Picture>& pictures) {
    Begins begins{0};
    for (std::int64_t i = 0; i < in.source_count; ++i) begins.push_back(begins.back() + in.sources[i].count);
    pictures.resize(in.layer_count);
    for (std::int64_t i = 0; i < in.layer_count; ++i)
        if (!place_picture(in, begins, in.layers[i], pictures[i]))
            return bad_argument("layers must lie within pixels, their sides and places below 262144");
    return ok();
}

}  // namespace

Status augment_cpu(const AugmentInput& in, const AugmentOutput& out, int threads) {
    std::vector<Picture> pictures;
    Status status = check_augment(in, out);
    if (status.code == kOk) status = place_pictures(in, pictures);
    if (status.code != kOk) return status;
    return parallel_for(in.images, threads, [&](std::int64_t image) {
        if (out.element == 1) return make_image<std::uint8_t>(in, pictures.data(), out, image);
        if (out.element == 2) return make_image<std::uint16_t>(in, pictures.data(), out, image);
        make_image<std::uint32_t>(in, pictures.data(), out, image);
    });
}

}  // namespace yk
