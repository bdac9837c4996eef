// What the files of yolov9k._native's bindings share: named arguments in, (code, message) out.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>

#include "status.h"

namespace yk::bindings {

namespace py = pybind11;

inline py::tuple report(const yk::Status& status) { return py::make_tuple(static_cast<int>(status.code), status.message); }

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

void define_training(py::module_& module);  // bindings_training.cpp

}  // namespace yk::bindings
