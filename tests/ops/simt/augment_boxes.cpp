#include "augment_boxes.h"

#include "cases.h"

namespace {

using namespace cases;

void augment_boxes() {
    const auto sizes = read<std::int64_t>(6);
    yk::AugmentBoxesInput in{};
    in.images = sizes[0], in.height = sizes[1], in.width = sizes[2], in.point_count = sizes[3], in.objects = sizes[4];
    in.capacity = sizes[5];
    const auto points = read<float>(2 * in.point_count);
    const auto ends = read<std::int64_t>(in.objects), classes = read<std::int64_t>(in.objects);
    const auto min_area_ratio = read<float>(in.objects);
    const auto ranges = read<std::int64_t>(4 * in.images);
    const auto matrices = read<float>(18 * in.images);
    in.points = points.get(), in.ends = ends.get(), in.classes = classes.get(), in.min_area_ratio = min_area_ratio.get();
    in.ranges = ranges.get(), in.matrices = matrices.get();
    const auto boxes = zeros<float>(5 * in.images * in.capacity);
    const auto counts = zeros<std::int64_t>(in.images);
    expect_done(yk::augment_boxes_cpu(in, {boxes.get(), counts.get()}, 2));
    write(boxes.get(), 5 * in.images * in.capacity);
    write(counts.get(), in.images);
}

const Operation registered(3, augment_boxes);

}  // namespace
