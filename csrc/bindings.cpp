// yolov9k._native: addresses, sizes and streams come in as integers, (code, message) goes out. No torch header anywhere,
// so one build serves every torch; yolov9k/native.py checks the tensors and allocates every output.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <sstream>
#include <string>

#include "box.h"

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;

template <typename T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

py::tuple report(const yk::Status& status) { return py::make_tuple(static_cast<int>(status.code), status.message); }

py::tuple pairwise_iou(Address a, std::int64_t n, Address b, std::int64_t m, Address out) {
    yk::Status status;
    {
        py::gil_scoped_release release;
        status = yk::pairwise_iou(pointer<const float>(a), n, pointer<const float>(b), m, pointer<float>(out));
    }
    return report(status);
}

#ifdef YK_WITH_CUDA
py::tuple pairwise_iou_cuda(Address a, std::int64_t n, Address b, std::int64_t m, Address out, Address stream) {
    return report(yk::pairwise_iou_cuda(pointer<const float>(a), n, pointer<const float>(b), m, pointer<float>(out),
                                        pointer<void>(stream)));
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
    module.doc() = "Torch-free kernels of yolov9k; call them through yolov9k.native.";
    module.def("build_info", &build_info, "How this module was compiled.");
    module.def("pairwise_iou", &pairwise_iou, py::arg("a"), py::arg("n"), py::arg("b"), py::arg("m"), py::arg("out"),
               "IoU of float32 boxes [n,4] and [m,4] into out [n,m], all on the host. Returns (code, message), code 0: done.");
#ifdef YK_WITH_CUDA
    module.def("pairwise_iou_cuda", &pairwise_iou_cuda, py::arg("a"), py::arg("n"), py::arg("b"), py::arg("m"),
               py::arg("out"), py::arg("stream"), "The same on the current CUDA device, enqueued on `stream`.");
#endif
}
