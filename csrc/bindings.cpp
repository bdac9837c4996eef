// yolov9k._native: addresses, lengths and streams come in as integers by name, (code, message) goes out. No torch header
// anywhere, so one build serves every torch; yolov9k/native/ checks the tensors and allocates every output.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "augment.h"
#include "augment_boxes.h"
#include "batched_nms.h"
#include "conv3x3.h"
#include "conv_bn_silu.h"
#include "detection_loss.h"
#include "sgd_ema.h"
#include "task_aligned_assign.h"

namespace py = pybind11;

namespace {

py::tuple report(const yk::Status& status) { return py::make_tuple(static_cast<int>(status.code), status.message); }

// One named argument, or KeyError with its name.
template <typename T>
T get(const py::dict& arguments, const char* name) {
    return py::cast<T>(arguments[name]);
}

template <typename T>
T* address(const py::dict& arguments, const char* name) {
    return reinterpret_cast<T*>(get<std::uintptr_t>(arguments, name));
}

// The status of run(threads), during which other threads of Python go on; whatever it reads of `a` is read before.
template <typename Run>
py::tuple without_lock(const py::dict& a, const Run& run) {
    const int threads = get<int>(a, "threads");
    const auto unlocked = [&] {
        py::gil_scoped_release release;
        return run(threads);
    };
    return report(unlocked());
}

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
            address<std::uint32_t>(a, "best_metric"), address<std::uint32_t>(a, "best_overlap")};
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

yk::BnShape bn_shape(const py::dict& a) {
    return {static_cast<yk::Dtype>(get<int>(a, "dtype")), get<std::int64_t>(a, "rows"), get<std::int64_t>(a, "channels")};
}

// A slice is a pair of its address and its pitch.
using Pair = std::pair<std::uintptr_t, std::int64_t>;

yk::BnRows bn_rows(const Pair& pair) { return {reinterpret_cast<void*>(pair.first), pair.second}; }

yk::BnRows bn_rows(const py::dict& a, const char* name) { return bn_rows(get<Pair>(a, name)); }

std::vector<yk::BnRows> all_bn_rows(const py::dict& a, const char* name) {
    std::vector<yk::BnRows> result;
    for (const Pair& pair : get<std::vector<Pair>>(a, name)) result.push_back(bn_rows(pair));
    return result;
}

// z: slices; vectors: addresses of gamma, beta, mean, invstd for each.
std::vector<yk::BnMap> bn_maps(const py::dict& a) {
    std::vector<yk::BnMap> maps;
    const auto vectors = get<std::vector<std::array<std::uintptr_t, 4>>>(a, "vectors");
    for (const yk::BnRows& z : all_bn_rows(a, "z")) {
        const std::array<std::uintptr_t, 4>& v = vectors.at(maps.size());
        maps.push_back({z,
                        {reinterpret_cast<const float*>(v[0]), reinterpret_cast<const float*>(v[1]),
                         reinterpret_cast<const double*>(v[2]), reinterpret_cast<const double*>(v[3])}});
    }
    return maps;
}

yk::BnTable bn_table(const py::dict& a) {
    const auto rows = get<std::array<std::uintptr_t, 4>>(a, "table");
    double* at[4];
    for (int i = 0; i < 4; ++i) at[i] = reinterpret_cast<double*>(rows[i]);
    return {at[0], at[1], at[2], at[3]};
}

py::tuple bn_statistics(const py::kwargs& a) {
    const yk::BnShape shape = bn_shape(a);
    const yk::BnRows z = bn_rows(a, "z");
    double *mean = address<double>(a, "mean"), *spread = address<double>(a, "spread");
    return without_lock(a, [&](int threads) { return yk::bn_statistics_cpu(shape, z, mean, spread, threads); });
}

py::tuple bn_settle(const py::kwargs& a) {
    const yk::BnRunning running{address<float>(a, "running_mean"), address<float>(a, "running_var"),
                                address<std::int64_t>(a, "batches"), get<double>(a, "momentum")};
    return report(yk::bn_settle_cpu(bn_shape(a), address<const double>(a, "mean"), address<const double>(a, "spread"),
                                    get<double>(a, "eps"), address<double>(a, "found"), running,
                                    address<const float>(a, "gamma"), address<const float>(a, "beta"), get<bool>(a, "active"),
                                    bn_table(a)));
}

py::tuple bn_silu(const py::kwargs& a) {
    const yk::BnShape shape = bn_shape(a);
    const std::vector<yk::BnMap> maps = bn_maps(a);
    const yk::BnRows residual = bn_rows(a, "residual"), y = bn_rows(a, "y");
    const bool activation = get<bool>(a, "activation");
    return without_lock(a, [&](int threads) {
        return yk::bn_silu_cpu(shape, maps.data(), static_cast<int>(maps.size()), activation, residual, y, threads);
    });
}

py::tuple bn_apply_table(const py::kwargs& a) {
    const yk::BnShape shape = bn_shape(a);
    const yk::BnRows z = bn_rows(a, "z"), y = bn_rows(a, "y");
    const yk::BnTable table = bn_table(a);
    return without_lock(a, [&](int threads) { return yk::bn_apply_table_cpu(shape, z, table, y, threads); });
}

py::tuple bn_silu_backward_reduce(const py::kwargs& a) {
    const yk::BnShape shape = bn_shape(a);
    const std::vector<yk::BnRows> grads = all_bn_rows(a, "grads");
    const std::vector<yk::BnMap> maps = bn_maps(a);
    const yk::BnRows out = bn_rows(a, "out");
    double* sums = address<double>(a, "sums");
    const bool activation = get<bool>(a, "activation");
    return without_lock(a, [&](int threads) {
        return yk::bn_silu_backward_reduce_cpu(shape, grads.data(), static_cast<int>(grads.size()), maps.data(),
                                               static_cast<int>(maps.size()), activation, out, sums, threads);
    });
}

py::tuple bn_silu_backward_apply(const py::kwargs& a) {
    const yk::BnShape shape = bn_shape(a);
    const yk::BnRows grad = bn_rows(a, "grad");
    const std::vector<yk::BnMap> maps = bn_maps(a);
    const std::vector<yk::BnRows> out = all_bn_rows(a, "out");
    if (out.size() < maps.size()) return report(yk::bad_argument("there are fewer results than maps"));
    const double *sums = address<const double>(a, "sums"), total = get<double>(a, "total");
    return without_lock(a, [&](int threads) {
        return yk::bn_silu_backward_apply_cpu(shape, grad, maps.data(), static_cast<int>(maps.size()), sums, total, out.data(),
                                              threads);
    });
}

yk::ConvShape conv_shape(const py::dict& a) {
    const auto s = get<std::array<std::int64_t, 6>>(a, "shape");
    return {s[0], s[1], s[2], s[3], s[4], s[5]};
}

yk::ConvMap conv_map(const py::dict& a, const char* name) {
    const Pair pair = get<Pair>(a, name);
    return {reinterpret_cast<float*>(pair.first), pair.second};
}

yk::ConvWeight conv_weight(const py::dict& a) {
    const auto strides = get<std::array<std::int64_t, 3>>(a, "strides");
    return {address<float>(a, "weight"), strides[0], strides[1], strides[2]};
}

py::tuple conv3x3(const py::kwargs& a) {
    const yk::ConvShape shape = conv_shape(a);
    const yk::ConvMap x = conv_map(a, "x"), y = conv_map(a, "y");
    const yk::ConvWeight weight = conv_weight(a);
    return without_lock(a, [&](int threads) { return yk::conv3x3_cpu(shape, x, weight, y, threads); });
}

py::tuple conv3x3_input_gradient(const py::kwargs& a) {
    const yk::ConvShape shape = conv_shape(a);
    const yk::ConvMap grad = conv_map(a, "grad"), grad_x = conv_map(a, "grad_x");
    const yk::ConvWeight weight = conv_weight(a);
    return without_lock(a, [&](int threads) { return yk::conv3x3_input_gradient_cpu(shape, grad, weight, grad_x, threads); });
}

py::tuple conv3x3_weight_gradient(const py::kwargs& a) {
    const yk::ConvShape shape = conv_shape(a);
    const yk::ConvMap grad = conv_map(a, "grad"), x = conv_map(a, "x");
    const yk::ConvWeight weight = conv_weight(a);
    return without_lock(a, [&](int threads) { return yk::conv3x3_weight_gradient_cpu(shape, grad, x, weight, threads); });
}

yk::LossMaps loss_maps(const py::dict& a) {
    yk::LossMaps maps{};
    const auto data = get<std::vector<std::uintptr_t>>(a, "maps"), grads = get<std::vector<std::uintptr_t>>(a, "grads");
    const auto heights = get<std::vector<std::int64_t>>(a, "heights"), widths = get<std::vector<std::int64_t>>(a, "widths");
    const auto strides = get<std::vector<float>>(a, "strides");
    for (std::size_t i = 0; i < data.size(); ++i)
        maps.levels.push_back({reinterpret_cast<const void*>(data[i]), reinterpret_cast<void*>(grads.empty() ? 0 : grads.at(i)),
                               heights.at(i), widths.at(i), strides.at(i)});
    maps.dtype = static_cast<yk::Dtype>(get<int>(a, "dtype"));
    maps.images = get<std::int64_t>(a, "images");
    maps.classes = get<std::int64_t>(a, "classes");
    maps.bins = get<std::int64_t>(a, "bins");
    return maps;
}

py::tuple loss_predictions(const py::kwargs& a) {
    const yk::LossMaps maps = loss_maps(a);
    float* boxes = address<float>(a, "boxes");
    void* logits = address<void>(a, "logits");
    return without_lock(a, [&](int threads) { return yk::loss_predictions_cpu(maps, boxes, logits, threads); });
}

py::tuple detection_loss(const py::kwargs& a) {
    const yk::LossMaps maps = loss_maps(a);
    const yk::LossTargets targets{address<const std::int64_t>(a, "gt_index"), address<const float>(a, "weight"),
                                  address<const float>(a, "weight_sum"),      address<const std::int64_t>(a, "labels"),
                                  address<const float>(a, "gt_boxes"),        get<std::int64_t>(a, "gt_count")};
    const yk::LossForm form{get<float>(a, "smoothing"), get<float>(a, "pos_weight"), address<const float>(a, "factors")};
    float* parts = address<float>(a, "parts");
    return without_lock(a, [&](int threads) { return yk::detection_loss_cpu(maps, targets, form, parts, threads); });
}

py::tuple sgd_ema(const py::kwargs& a) {
    yk::SgdStep step{};
    step.values = address<float>(a, "values");
    step.grads = address<float>(a, "grads");
    step.momentum = address<float>(a, "momentum");
    step.ema = address<float>(a, "ema");
    step.low = address<void>(a, "low");
    step.low_dtype = static_cast<yk::Dtype>(get<int>(a, "low_dtype"));
    step.settings = address<const float>(a, "settings");
    step.state = address<float>(a, "state");
    const auto ends = get<std::vector<std::int64_t>>(a, "group_ends");
    if (ends.size() != yk::kGroups) return report(yk::bad_argument("group_ends: not three"));
    std::copy(ends.begin(), ends.end(), step.ends);
    step.total = get<std::int64_t>(a, "total");
    return without_lock(a, [&](int threads) { return yk::sgd_ema_cpu(step, threads); });
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
    const char* conv = "3x3 convolutions over channels-last maps on the host; arguments as in csrc/conv3x3.h.";
    module.def("conv3x3_serves", &yk::conv3x3_serves, "Whether this processor is one for which they are written.");
    module.def("conv3x3", &conv3x3, conv);
    module.def("conv3x3_input_gradient", &conv3x3_input_gradient, conv);
    module.def("conv3x3_weight_gradient", &conv3x3_weight_gradient, conv);
    const char* bn = "BatchNorm and SiLU over slices of maps on the host; arguments as in csrc/conv_bn_silu.h.";
    module.def("bn_statistics", &bn_statistics, bn);
    module.def("bn_settle", &bn_settle, bn);
    module.def("bn_silu", &bn_silu, bn);
    module.def("bn_apply_table", &bn_apply_table, bn);
    module.def("bn_silu_backward_reduce", &bn_silu_backward_reduce, bn);
    module.def("bn_silu_backward_apply", &bn_silu_backward_apply, bn);
    module.def("loss_predictions", &loss_predictions,
               "Boxes and logits of raw maps on the host; arguments as in csrc/detection_loss.h, and `threads`.");
    module.def("detection_loss", &detection_loss,
               "The detection loss and its gradient on the host; arguments as in csrc/detection_loss.h, and `threads`.");
    module.def("sgd_ema", &sgd_ema, "The optimizer step on the host; arguments as in csrc/sgd_ema.h, and `threads`.");
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
