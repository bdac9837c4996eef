// The arguments of augment checked, and its layers found in memory.
#include "augment_layers.h"

#include <algorithm>

namespace yk {

namespace {

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
bool place_image(const AugmentInput& in, const Begins& begins, const Layer& l, PlacedImage& placed) {
    const auto small = [](std::int64_t place) { return place > -kMaxPlace && place < kMaxPlace; };
    const auto apart = [](std::int64_t stride, std::int64_t width) { return stride >= width && stride < 3 * kMaxPlace; };
    if (!small(l.left) || !small(l.top) || !small(l.height) || !small(l.width) || l.height < 0 || l.width < 0) return false;
    placed = {nullptr, nullptr, nullptr, nullptr, l.height, l.width, l.left, l.top, l.stride, l.mask_stride};
    if (!l.height || !l.width) return true;
    if (l.mask < -1 || !apart(l.stride, 3 * l.width) || (l.mask >= 0 && !apart(l.mask_stride, l.width))) return false;
    const std::int64_t span = (l.height - 1) * l.stride + 3 * l.width;
    const std::uint8_t* end;
    if (l.mask >= 0) placed.mask = find(in, begins, l.mask, (l.height - 1) * l.mask_stride + l.width, end);
    placed.image = span < 1ll << 31 ? find(in, begins, l.start, span, placed.end) : nullptr;
    return placed.image && (placed.mask || l.mask < 0);
}

Status check(const AugmentInput& in, const AugmentOutput& out) {
    if (in.images < 0 || in.height < 1 || in.width < 1 || in.source_count < 0 || in.layer_count < 0)
        return bad_argument("a length is negative");
    if (in.height > 1 << 15 || in.width > 1 << 15) return bad_argument("size is too large");
    if (out.element != 1 && out.element != 2 && out.element != 4) return bad_argument("an element has 1, 2 or 4 bytes");
    if (in.images && (!in.ranges || !in.matrices || !in.mix_weights || !in.hsv_gains || !out.images || !out.levels))
        return bad_argument("an address is null");
    if (in.layer_count && !in.layers) return bad_argument("the address of the layers is null");
    for (std::int64_t i = 0; i < in.source_count; ++i)
        if (in.sources[i].count < 0 || (in.sources[i].count && !in.sources[i].bytes)) return bad_argument("a source is null");
    for (std::int64_t i = 0; i < 4 * in.images; i += 2)
        if (in.ranges[i] < 0 || in.ranges[i] > in.ranges[i + 1] || in.ranges[i + 1] > in.layer_count)
            return bad_argument("ranges must be rising, from 0 to at most the number of layers");
    return ok();
}

// The opaque columns of each row of a mask.
void find_opaque(const PlacedImage& placed, std::vector<Opaque>& rows) {
    for (std::int64_t y = 0; y < placed.height; ++y) {
        const std::uint8_t *begin = placed.mask + y * placed.mask_stride, *end = begin + placed.width, *first = begin;
        while (first < end && !*first) ++first;
        while (end > first && !end[-1]) --end;
        rows.push_back({static_cast<int>(first - begin), static_cast<int>(end - begin), std::find(first, end, 0) == end});
        if (first == end) rows.back() = {0, 0, false};
    }
}

}  // namespace

Status place_layers(const AugmentInput& in, const AugmentOutput& out, PlacedImages& all_placed) {
    if (const Status status = check(in, out); status.code != kOk) return status;
    Begins begins{0};
    for (std::int64_t i = 0; i < in.source_count; ++i) begins.push_back(begins.back() + in.sources[i].count);
    all_placed.each.resize(in.layer_count);
    for (std::int64_t i = 0; i < in.layer_count; ++i)
        if (!place_image(in, begins, in.layers[i], all_placed.each[i]))
            return bad_argument("layers must lie within pixels, their sides and places below 262144");
    std::vector<std::size_t> starts;
    for (const PlacedImage& placed : all_placed.each) {
        starts.push_back(all_placed.opaque.size());
        if (placed.mask) find_opaque(placed, all_placed.opaque);
    }
    for (std::size_t i = 0; i < starts.size(); ++i)
        all_placed.each[i].opaque = all_placed.opaque.data() + starts[i];  // it stays now
    return ok();
}

}  // namespace yk
