// yolov9k._native: addresses, lengths and streams come in as integers by name, (code, message) goes out. No torch header
// anywhere, so one build serves every torch; yolov9k/native/ checks the tensors and allocates every output.
#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "augment.h"
#include "augment_boxes.h"
#include "batched_nms.h"
#include "bindings.h"
#include "task_aligned_assign.h"

namespace py = pybind11;

namespace {

using yk::bindings::address;
using yk::bindings::get;
using yk::bindings::report;
using yk::bindings::without_lock;

yk::AssignInput assign_input(const py::dict& a) {
    yk::AssignInput in{};
    in.scores = address<const void>(a, "scores");
    in.stride_image = get<std::int64_t>(a, "stride_image");
    in.stride_anchor = get<std::int64_t>(a, "stride_anchor");
    in.stride_class = get<std::int64_t>(a, "stride_class");
    in.dtype = static_cast<yk::Dtype>(get<int>(a, "dtype"));
    in.logits = get<bool>(a, "logits");
    in.boxes = address<const float>(a, "boxes");
    in.anchors = address<const float>(a, "anchors");
    in.labels = address<const std::int64_t>(a, "labels");
    in.gt_boxes = address<const float>(a, "gt_boxes");
    in.regions = address<const float>(a, "regions");
    in.gt_mask = address<const std::uint8_t>(a, "gt_mask");
    in.limits = address<const float>(a, "limits");
    in.images = get<std::int64_t>(a, "images");
    in.count = get<std::int64_t>(a, "count");
    in.gt_count = get<std::int64_t>(a, "gt_count");
    in.classes = get<std::int64_t>(a, "classes");
    in.topk = get<int>(a, "topk");
    in.alpha = get<double>(a, "alpha");
    in.beta = get<double>(a, "beta");
    in.mask_conflicts = get<bool>(a, "mask_conflicts");
    return in;
}

yk::AssignOutput assign_output(const py::dict& a) {
    return {address<std::int64_t>(a, "gt_index"),     address<float>(a, "weight"),
            address<float>(a, "weight_sum"),          address<std::uint64_t>(a, "claims"),
            address<std::uint32_t>(a, "best_metric"), address<std::uint32_t>(a, "best_overlap"),
            address<std::uint64_t>(a, "least")};
}

yk::NmsInput nms_input(const py::dict& a) {
    yk::NmsInput in{};
    in.prediction = address<const void>(a, "prediction");
    in.stride_image = get<std::int64_t>(a, "stride_image");
    in.stride_row = get<std::int64_t>(a, "stride_row");
    in.stride_anchor = get<std::int64_t>(a, "stride_anchor");
    in.dtype = static_cast<yk::Dtype>(get<int>(a, "dtype"));
    in.images = get<std::int64_t>(a, "images");
    in.classes = get<std::int64_t>(a, "classes");
    in.count = get<std::int64_t>(a, "count");
    in.conf_threshold = get<float>(a, "conf_threshold");
    in.iou_threshold = get<float>(a, "iou_threshold");
    in.class_agnostic = get<bool>(a, "class_agnostic");
    in.multi_label = get<bool>(a, "multi_label");
    in.max_detections = get<std::int64_t>(a, "max_detections");
    in.lengths = address<const std::int64_t>(a, "lengths");
    in.filter = !a["wanted"].is_none();
    if (in.filter)
        for (const py::handle& label : a["wanted"]) {
            const auto c = py::cast<std::int64_t>(label);
            if (c >= 0 && c < yk::kMaxFiltered) in.wanted[c / 32] |= 1u << (c % 32);
        }
    return in;
}

yk::NmsOutput nms_output(const py::dict& a) {
    return {address<float>(a, "detections"), address<std::int64_t>(a, "counts"), address<yk::NmsState>(a, "state"),
            address<std::uint32_t>(a, "histogram"), address<std::uint64_t>(a, "keys")};
}

std::vector<yk::Source> sources(const py::dict& a) {
    const auto addresses = get<std::vector<std::uintptr_t>>(a, "sources");
    const auto counts = get<std::vector<std::int64_t>>(a, "source_counts");
    std::vector<yk::Source> found;
    for (std::size_t i = 0; i < std::min(addresses.size(), counts.size()); ++i)
        found.push_back({reinterpret_cast<const std::uint8_t*>(addresses[i]), counts[i]});
    return found;
}

yk::AugmentInput augment_input(const py::dict& a, const std::vector<yk::Source>& sources) {
    yk::AugmentInput in{};
    in.sources = sources.data();
    in.source_count = static_cast<std::int64_t>(sources.size());
    in.layers = address<const yk::Layer>(a, "layers");
    in.layer_count = get<std::int64_t>(a, "layer_count");
    in.ranges = address<const std::int64_t>(a, "ranges");
    in.matrices = address<const float>(a, "matrices");
    in.mix_weights = address<const float>(a, "mix_weights");
    in.hsv_gains = address<const float>(a, "hsv_gains");
    in.images = get<std::int64_t>(a, "images");
    in.height = get<std::int64_t>(a, "height");
    in.width = get<std::int64_t>(a, "width");
    return in;
}

yk::AugmentOutput augment_output(const py::dict& a) {
    yk::AugmentOutput out{};
    out.images = address<void>(a, "output");
    out.element = get<int>(a, "element");
    out.levels = address<const void>(a, "levels");
    out.stride_image = get<std::int64_t>(a, "stride_image");
    out.stride_channel = get<std::int64_t>(a, "stride_channel");
    out.stride_row = get<std::int64_t>(a, "stride_row");
    out.stride_pixel = get<std::int64_t>(a, "stride_pixel");
    return out;
}

yk::AugmentBoxesInput augment_boxes_input(const py::dict& a) {
    yk::AugmentBoxesInput in{};
    in.points = address<const float>(a, "points");
    in.ends = address<const std::int64_t>(a, "ends");
    in.classes = address<const std::int64_t>(a, "classes");
    in.min_area_ratio = address<const float>(a, "min_area_ratio");
    in.ranges = address<const std::int64_t>(a, "ranges");
    in.matrices = address<const float>(a, "matrices");
    in.point_count = get<std::int64_t>(a, "point_count");
    in.objects = get<std::int64_t>(a, "objects");
    in.images = get<std::int64_t>(a, "images");
    in.height = get<std::int64_t>(a, "height");
    in.width = get<std::int64_t>(a, "width");
    in.capacity = get<std::int64_t>(a, "capacity");
    return in;
}

py::tuple task_aligned_assign(const py::kwargs& a) {
    const yk::AssignInput in = assign_input(a);
    const yk::AssignOutput out = assign_output(a);
    return without_lock(a, [&](int threads) { return yk::assign_cpu(in, out, threads); });
}

py::tuple batched_nms(const py::kwargs& a) {
    const yk::NmsInput in = nms_input(a);
    const yk::NmsOutput out = nms_output(a);
    return without_lock(a, [&](int threads) { return yk::nms_cpu(in, out, threads); });
}

py::tuple augment(const py::kwargs& a) {
    const std::vector<yk::Source> held = sources(a);
    const yk::AugmentInput in = augment_input(a, held);
    const yk::AugmentOutput out = augment_output(a);
    return without_lock(a, [&](int threads) { return yk::augment_cpu(in, out, threads); });
}

py::tuple augment_boxes(const py::kwargs& a) {
    const yk::AugmentBoxesInput in = augment_boxes_input(a);
    const yk::AugmentBoxesOutput out{address<float>(a, "boxes"), address<std::int64_t>(a, "counts")};
    return without_lock(a, [&](int threads) { return yk::augment_boxes_cpu(in, out, threads); });
}

py::tuple clip_outlines(const py::kwargs& a) {
    yk::ClipInput in{};
    in.points = address<const float>(a, "points");
    in.lengths = address<const std::int64_t>(a, "lengths");
    in.point_count = get<std::int64_t>(a, "point_count");
    in.objects = get<std::int64_t>(a, "objects");
    in.room = get<std::int64_t>(a, "room");
    in.width = get<float>(a, "width");
    in.height = get<float>(a, "height");
    return report(yk::clip_outlines(
        in, {address<float>(a, "left"), address<std::int64_t>(a, "left_lengths"), address<float>(a, "boxes")}));
}

#ifdef YK_WITH_CUDA
py::tuple task_aligned_assign_cuda(const py::kwargs& a) {
    return report(yk::assign_cuda(assign_input(a), assign_output(a), address<void>(a, "stream")));
}

py::tuple batched_nms_cuda(const py::kwargs& a) {
    return report(yk::nms_cuda(nms_input(a), nms_output(a), address<void>(a, "stream")));
}
#endif

py::dict build_info() {
    py::list archs;
    std::istringstream names(YK_ARCHS);
    for (std::string name; names >> name;) archs.append(name);
    py::dict info;
    info["version"] = YK_VERSION;
#ifdef __clang__
    info["compiler"] = __VERSION__;
#else
    info["compiler"] = "g++ " __VERSION__;
#endif
#ifdef YK_WITH_CUDA
    info["cuda"] = YK_CUDA_VERSION;
#else
    info["cuda"] = py::none();
#endif
    info["archs"] = archs;
    return info;
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    module.doc() =
        "Torch-free kernels of yolov9k; call them through yolov9k.native. Each returns (code, message), code 0: done.";
    module.def("build_info", &build_info, "How this module was compiled.");
    module.def("padded_candidates", &yk::padded_candidates, py::arg("classes"), py::arg("count"), py::arg("multi_label"),
               "Keys of scratch that batched_nms_cuda needs an image.");
    module.def("task_aligned_assign", &task_aligned_assign,
               "Task-aligned assignment on the host; arguments as in csrc/task_aligned_assign.h, and `threads`.");
    module.def("batched_nms", &batched_nms,
               "Non-maximum suppression on the host; arguments as in csrc/batched_nms.h, and `threads`.");
    module.def("augment", &augment, "Augmented images on the host; arguments as in csrc/augment.h, and `threads`.");
    module.def("augment_boxes", &augment_boxes,
               "Boxes of augmented images on the host; arguments as in csrc/augment_boxes.h, and `threads`.");
    yk::bindings::define_training(module);
    module.def("clip_outlines", &clip_outlines, "Outlines clipped to a rectangle; arguments as in csrc/augment_boxes.h.");
#ifdef YK_WITH_CUDA
    module.def("task_aligned_assign_cuda", &task_aligned_assign_cuda,
               "The same on the current CUDA device, enqueued on `stream`.");
    module.def("batched_nms_cuda", &batched_nms_cuda, "The same on the current CUDA device, enqueued on `stream`.");
#endif
    py::dict scratch;
    scratch["state"] = sizeof(yk::NmsState);
    scratch["bins"] = yk::kBins;
    module.attr("nms_scratch") = scratch;
}
