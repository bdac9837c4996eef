#include "task_aligned_assign.h"

#include "cases.h"

namespace {

using namespace cases;

void assign() {
    const auto sizes = read<std::int64_t>(9);
    const auto exponents = read<double>(2);
    yk::AssignInput in{};
    in.images = sizes[0], in.count = sizes[1], in.gt_count = sizes[2], in.classes = sizes[3];
    in.topk = static_cast<int>(sizes[4]), in.dtype = static_cast<yk::Dtype>(sizes[5]);
    in.logits = sizes[6], in.mask_conflicts = sizes[7];
    in.alpha = exponents[0], in.beta = exponents[1];
    in.stride_class = 1, in.stride_anchor = in.classes, in.stride_image = in.classes * in.count;
    const std::size_t anchors = in.images * in.count, gts = in.images * in.gt_count;
    const auto scores = read<char>(anchors * in.classes * bytes(static_cast<int>(sizes[5])));
    const auto boxes = read<float>(anchors * 4), points = read<float>(in.count * 2);
    const auto labels = read<std::int64_t>(gts);
    const auto gt_boxes = read<float>(gts * 4), regions = read<float>(gts * 4);
    const auto mask = read<std::uint8_t>(gts);
    const auto limits = read<float>(sizes[8] ? in.count : 0);
    in.scores = scores.get(), in.boxes = boxes.get(), in.anchors = points.get();
    in.labels = labels.get(), in.gt_boxes = gt_boxes.get(), in.regions = regions.get(), in.gt_mask = mask.get();
    in.limits = sizes[8] ? limits.get() : nullptr;
    const auto gt_index = zeros<std::int64_t>(anchors);
    const auto weight = zeros<float>(anchors), weight_sum = zeros<float>(in.images);
    const auto claims = zeros<std::uint64_t>(anchors);
    const auto best_metric = zeros<std::uint32_t>(gts), best_overlap = zeros<std::uint32_t>(gts);
    const auto least = zeros<std::uint64_t>(gts);
    expect_done(yk::assign_cuda(
        in, {gt_index.get(), weight.get(), weight_sum.get(), claims.get(), best_metric.get(), best_overlap.get(), least.get()},
        nullptr));
    write(gt_index.get(), anchors);
    write(weight.get(), anchors);
    write(weight_sum.get(), in.images);
}

const Operation registered(0, assign);

}  // namespace
