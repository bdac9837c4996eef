// Runs the operators of csrc/ on the host, those for CUDA too: reads cases from a file, writes their results to another. What each case
// holds is written by tests/ops/simt/cases.py. Every array is an allocation of its exact size, for the address sanitizer.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "augment.h"
#include "augment_boxes.h"
#include "batched_nms.h"
#include "task_aligned_assign.h"

namespace {

std::FILE *input, *output;

template <typename T>
std::unique_ptr<T[]> read(std::size_t count) {
    std::unique_ptr<T[]> values(new T[count]());
    if (std::fread(values.get(), sizeof(T), count, input) != count) std::exit(4);
    return values;
}

template <typename T>
void write(const T* values, std::size_t count) {
    if (std::fwrite(values, sizeof(T), count, output) != count) std::exit(5);
}

template <typename T>
std::unique_ptr<T[]> zeros(std::size_t count) {
    return std::unique_ptr<T[]>(new T[count]());
}

void expect_done(const yk::Status& status) {
    if (status.code == yk::kOk) return;
    std::fprintf(stderr, "%s\n", status.message);
    std::exit(6);
}

std::size_t bytes(int dtype) { return dtype == 0 ? 4 : 2; }

void assign() {
    const auto sizes = read<std::int64_t>(8);
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
    in.scores = scores.get(), in.boxes = boxes.get(), in.anchors = points.get();
    in.labels = labels.get(), in.gt_boxes = gt_boxes.get(), in.regions = regions.get(), in.gt_mask = mask.get();
    const auto gt_index = zeros<std::int64_t>(anchors);
    const auto weight = zeros<float>(anchors), weight_sum = zeros<float>(in.images);
    const auto claims = zeros<std::uint64_t>(anchors);
    const auto best_metric = zeros<std::uint32_t>(gts), best_overlap = zeros<std::uint32_t>(gts);
    expect_done(yk::assign_cuda(in, {gt_index.get(), weight.get(), weight_sum.get(), claims.get(), best_metric.get(),
                                     best_overlap.get()}, nullptr));
    write(gt_index.get(), anchors);
    write(weight.get(), anchors);
    write(weight_sum.get(), in.images);
}

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

}  // namespace

int main(int count, char** arguments) {
    if (count != 3 || !(input = std::fopen(arguments[1], "rb")) || !(output = std::fopen(arguments[2], "wb"))) return 2;
    void (*const operations[])() = {assign, nms, augment, augment_boxes};
    for (std::int64_t operation; std::fread(&operation, sizeof operation, 1, input) == 1;) operations[operation & 3]();
    return std::fclose(output) ? 5 : 0;
}
