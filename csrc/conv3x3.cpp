// 3x3 convolutions by minimal filtering (winograd.h), a block of tiles at a time: their pixels are transformed, channels are
// multiplied point by point, the results are transformed back. The weight's gradient is summed as points, and transformed once.
#include "conv3x3.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "threads.h"
#include "winograd.h"

namespace yk {

#ifdef YK_FMA

namespace {

constexpr std::int64_t kScratch = 1 << 16;  // floats that a block of tiles takes, about: they stay in the second cache
constexpr std::int64_t kChunks = 16;  // partial weight gradients at most
constexpr std::int64_t kPartial = 1 << 20;  // floats that they take, about
constexpr std::int64_t kChunkTiles = 48;  // that each of them is of, at least

// A tile's place: its image and its first pixel.
struct Tile {
    std::int64_t image, top, left;
};

// The tiles of all maps, image after image and row after row, in blocks whose points stay in the second cache.
struct Tiles {
    std::int64_t height, width, count, each;  // each: tiles of a block

    explicit Tiles(const ConvShape& shape)
        : height(shape.height), width(shape.width), count(shape.batch * ((height + 1) / 2) * ((width + 1) / 2)) {
        const std::int64_t most = std::max<std::int64_t>(kScratch / (kPoints * (shape.in + shape.out)), 12);
        const std::int64_t blocks = (count + most - 1) / most;
        each = (count + blocks - 1) / blocks;
    }

    std::int64_t blocks() const { return (count + each - 1) / each; }
    std::int64_t size(std::int64_t block) const { return std::min(each, count - block * each); }

    Tile first(std::int64_t block) const {
        const std::int64_t across = (width + 1) / 2, down = (height + 1) / 2, tile = block * each;
        return {tile / across / down, tile / across % down * 2, tile % across * 2};
    }

    void advance(Tile& tile) const {
        if ((tile.left += 2) < width) return;
        tile.left = 0;
        if ((tile.top += 2) < height) return;
        tile.top = 0, ++tile.image;
    }

    // Addresses of Side x Side pixels, the first of them `above` rows and columns before the tile's; `outside` for what lies
    // beyond the map.
    template <int Side, typename Float>
    void find(Float* map, std::int64_t pitch, const Tile& tile, std::int64_t above, Float* outside, Float** pixels) const {
        const std::int64_t top = tile.top - above, left = tile.left - above, line = width * pitch;
        Float* corner = map + (tile.image * height + top) * line + left * pitch;
        if (top >= 0 && left >= 0 && top + Side <= height && left + Side <= width) {
            for (std::int64_t i = 0; i < Side; ++i)
                for (std::int64_t j = 0; j < Side; ++j) pixels[i * Side + j] = corner + i * line + j * pitch;
            return;
        }
        for (std::int64_t i = 0; i < Side; ++i)
            for (std::int64_t j = 0; j < Side; ++j) {
                const bool inside = top + i >= 0 && top + i < height && left + j >= 0 && left + j < width;
                pixels[i * Side + j] = inside ? corner + i * line + j * pitch : outside;
            }
    }
};

// Points of a block of tiles: [point][tile][channel], with a cache line between points, or all would fall on one set.
struct Points {
    float* data;
    std::int64_t channels, apart;

    Points(float* data, std::int64_t tiles, std::int64_t channels)
        : data(data), channels(channels), apart(tiles * channels + 2 * kLanes) {}

    static std::int64_t size(std::int64_t tiles, std::int64_t channels) { return kPoints * (tiles * channels + 2 * kLanes); }
};

// Memory of a thread that is kept for its next task: `zeros` zeros, then the rest.
float* take_scratch(std::int64_t zeros, std::int64_t rest) {
    thread_local std::vector<float> scratch;
    const auto size = static_cast<std::size_t>(zeros + rest);
    if (scratch.size() < size) scratch.resize(size);
    std::fill_n(scratch.begin(), zeros, 0.0f);
    return scratch.data();
}

// Points of the tiles of one block.
template <typename Transform, int Side>
void spread_block(const Tiles& tiles, std::int64_t block, const ConvMap& map, std::int64_t above, const float* zeros,
                  const Points& to) {
    Tile tile = tiles.first(block);
    for (std::int64_t t = 0; t < tiles.size(block); ++t, tiles.advance(tile)) {
        const float* pixels[Side * Side];
        tiles.find<Side, const float>(map.data, map.pitch, tile, above, zeros, pixels);
        spread<Transform>(pixels, to.channels, to.data + t * to.channels, to.apart);
    }
}

void join_block(const Tiles& tiles, std::int64_t block, const Points& from, float* unwanted, const ConvMap& map) {
    Tile tile = tiles.first(block);
    for (std::int64_t t = 0; t < tiles.size(block); ++t, tiles.advance(tile)) {
        float* pixels[4];
        tiles.find<2, float>(map.data, map.pitch, tile, 0, unwanted, pixels);
        join(from.data + t * from.channels, from.apart, from.channels, pixels);
    }
}

// Packed weights of all groups, block after block.
Status pack_all(const ConvShape& shape, const ConvWeight& weight, std::int64_t in, std::int64_t out, bool backward, int threads,
                float* packed) {
    const Blocks blocks{out / kLanes};
    return parallel_for(shape.groups * blocks.count(), threads, [&](std::int64_t task) {
        const std::int64_t group = task / blocks.count(), block = task % blocks.count(), first = 2 * kLanes * block;
        ConvWeight seen = weight;
        if (backward) std::swap(seen.stride_out, seen.stride_in);
        seen.data += group * (backward ? in : out) * weight.stride_out + first * seen.stride_out;
        pack(seen, in, blocks.size(block) * kLanes, backward, packed + (group * out + first) * kPoints * in);
    });
}

// Points of the results of one group of channels from those of their inputs.
void multiply_points(const Points& x, std::int64_t group, std::int64_t in, const float* weights, const Points& y,
                     std::int64_t out, std::int64_t tiles) {
    const Blocks blocks{out / kLanes};
    for (std::int64_t block = 0; block < blocks.count(); ++block) {
        const std::int64_t size = blocks.size(block), first = group * out + 2 * kLanes * block;
        const auto run = size == 1   ? multiply_rows<1, rows_of(1)>
                         : size == 2 ? multiply_rows<2, rows_of(2)>
                                     : multiply_rows<3, rows_of(3)>;
        const float* w = weights + first * kPoints * in;
        for (std::int64_t point = 0; point < kPoints; ++point, w += in * size * kLanes)
            run(x.data + point * x.apart + group * in, x.channels, in, w, y.data + point * y.apart + first, y.channels, tiles);
    }
}

// Points of the weight's gradient of one group, [point][input channel][output channel]. more: added to what is there.
void correlate_points(const Points& x, std::int64_t group, std::int64_t in, const Points& grad, std::int64_t out,
                      std::int64_t tiles, bool more, float* sum) {
    const Blocks blocks{out / kLanes};
    for (std::int64_t point = 0; point < kPoints; ++point)
        for (std::int64_t block = 0; block < blocks.count(); ++block) {
            const std::int64_t size = blocks.size(block), first = 2 * kLanes * block;
            const auto run = size == 1   ? correlate_channels<1, rows_of(1)>
                             : size == 2 ? correlate_channels<2, rows_of(2)>
                                         : correlate_channels<3, rows_of(3)>;
            run(x.data + point * x.apart + group * in, x.channels, grad.data + point * grad.apart + group * out + first,
                grad.channels, tiles, more, sum + point * in * out + first, out, in);
        }
}

Status convolve(const ConvShape& shape, const ConvMap& x, const ConvWeight& weight, const ConvMap& y, bool backward,
                int threads) {
    const std::int64_t all_in = backward ? shape.out : shape.in, all_out = backward ? shape.in : shape.out;
    const std::int64_t in = all_in / shape.groups, out = all_out / shape.groups;
    const std::unique_ptr<float[]> packed(new float[static_cast<std::size_t>(kPoints * in * all_out)]);
    const Status status = pack_all(shape, weight, in, out, backward, threads, packed.get());
    if (status.code != kOk) return status;
    const Tiles tiles(shape);
    return parallel_for(tiles.blocks(), threads, [&](std::int64_t block) {
        const std::int64_t sizes[] = {Points::size(tiles.each, all_in), Points::size(tiles.each, all_out)};
        float* zeros = take_scratch(all_in, all_out + sizes[0] + sizes[1]);
        float* unwanted = zeros + all_in;
        const Points inputs(unwanted + all_out, tiles.each, all_in), results(inputs.data + sizes[0], tiles.each, all_out);
        spread_block<OfInput, 4>(tiles, block, x, 1, zeros, inputs);
        for (std::int64_t group = 0; group < shape.groups; ++group)
            multiply_points(inputs, group, in, packed.get(), results, out, tiles.size(block));
        join_block(tiles, block, results, unwanted, y);
    });
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
    const std::int64_t in = shape.in / shape.groups, out = shape.out / shape.groups, size = kPoints * in * out;
    const Tiles tiles(shape);
    const std::int64_t most = std::clamp<std::int64_t>(kPartial / (shape.groups * size), 4, kChunks);
    const std::int64_t chunks = std::min(tiles.blocks(), std::clamp<std::int64_t>(tiles.count / kChunkTiles, 1, most));
    const std::unique_ptr<float[]> partial(new float[static_cast<std::size_t>(chunks * shape.groups * size)]);
    status = parallel_for(chunks, threads, [&](std::int64_t chunk) {
        const std::int64_t first = tiles.blocks() * chunk / chunks, last = tiles.blocks() * (chunk + 1) / chunks;
        const std::int64_t zeros = std::max(shape.in, shape.out), inputs_size = Points::size(tiles.each, shape.in);
        float* scratch = take_scratch(zeros, inputs_size + Points::size(tiles.each, shape.out));
        const Points inputs(scratch + zeros, tiles.each, shape.in), grads(inputs.data + inputs_size, tiles.each, shape.out);
        for (std::int64_t block = first; block < last; ++block) {
            spread_block<OfInput, 4>(tiles, block, x, 1, scratch, inputs);
            spread_block<OfGradient, 2>(tiles, block, grad, 0, scratch, grads);
            for (std::int64_t group = 0; group < shape.groups; ++group)
                correlate_points(inputs, group, in, grads, out, tiles.size(block), block > first,
                                 partial.get() + (chunk * shape.groups + group) * size);
        }
    });
    if (status.code != kOk) return status;
    return parallel_for(shape.groups, threads, [&](std::int64_t group) {
        ConvWeight to = grad_weight;
        to.data += group * out * to.stride_out;
        unpack(partial.get() + group * size, chunks, shape.groups * size, in, out, to);
    });
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
