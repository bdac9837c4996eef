#include "augment.h"

#include "cases.h"

namespace {

using namespace cases;

void augment() {
    const auto sizes = read<std::int64_t>(6);
    yk::AugmentInput in{};
    in.images = sizes[0], in.height = sizes[1], in.width = sizes[2], in.layer_count = sizes[4];
    const auto pixels = read<std::uint8_t>(sizes[3]);
    const yk::Source source{pixels.get(), sizes[3]};
    const auto layers = read<yk::Layer>(in.layer_count);
    const auto ranges = read<std::int64_t>(4 * in.images);
    const auto matrices = read<float>(18 * in.images), mix_weights = read<float>(in.images), hsv_gains = read<float>(3 * in.images);
    in.sources = &source, in.source_count = 1, in.layers = layers.get(), in.ranges = ranges.get();
    in.matrices = matrices.get(), in.mix_weights = mix_weights.get(), in.hsv_gains = hsv_gains.get();
    const auto levels = read<std::uint8_t>(256);
    const std::int64_t area = in.height * in.width;
    const auto images = zeros<std::uint8_t>(in.images * 3 * area);
    yk::AugmentOutput out{images.get(), 1, levels.get(), 3 * area, area, in.width, 1};
    if (sizes[5]) out.stride_channel = 1, out.stride_row = 3 * in.width, out.stride_pixel = 3;  // channels last
    expect_done(yk::augment_cpu(in, out, 2));
    write(images.get(), in.images * 3 * area);
}

const Operation registered(2, augment);

}  // namespace
