#include "batched_nms.h"

#include <algorithm>

#include "cases.h"

namespace {

using namespace cases;

void nms() {
    const auto sizes = read<std::int64_t>(8);
    const auto thresholds = read<float>(2);
    yk::NmsInput in{};
    in.images = sizes[0], in.classes = sizes[1], in.count = sizes[2], in.max_detections = sizes[3];
    in.dtype = static_cast<yk::Dtype>(sizes[4]);
    in.class_agnostic = sizes[5], in.multi_label = sizes[6], in.filter = sizes[7];
    in.conf_threshold = thresholds[0], in.iou_threshold = thresholds[1];
    in.stride_anchor = 1, in.stride_row = in.count, in.stride_image = in.count * (4 + in.classes);
    const auto wanted = read<std::uint32_t>(yk::kMaxFiltered / 32);
    std::copy(wanted.get(), wanted.get() + yk::kMaxFiltered / 32, in.wanted);
    const auto prediction = read<char>(in.images * in.stride_image * bytes(static_cast<int>(sizes[4])));
    in.prediction = prediction.get();
    const auto lengths = read<std::int64_t>(in.images);
    in.lengths = lengths.get();
    const std::size_t padded = yk::padded_candidates(in.classes, in.count, in.multi_label);
    const auto detections = zeros<float>(in.images * in.max_detections * 6);
    const auto counts = zeros<std::int64_t>(in.images);
    const auto state = zeros<yk::NmsState>(in.images);
    const auto histogram = zeros<std::uint32_t>(in.images * yk::kBins);
    const auto keys = zeros<std::uint64_t>(in.images * padded);
    expect_done(yk::nms_cuda(in, {detections.get(), counts.get(), state.get(), histogram.get(), keys.get()}, nullptr));
    write(detections.get(), in.images * in.max_detections * 6);
    write(counts.get(), in.images);
}

const Operation registered(1, nms);

}  // namespace
