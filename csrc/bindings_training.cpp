// The part of yolov9k._native that a training step on the host runs: convolutions, BatchNorm and SiLU, the loss, the optimizer.
#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "bindings.h"
#include "conv3x3.h"
#include "conv_bn_silu.h"
#include "detection_loss.h"
#include "sgd_ema.h"

namespace yk::bindings {
namespace {

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

}  // namespace

void define_training(py::module_& module) {
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
}

}  // namespace yk::bindings
