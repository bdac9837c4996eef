// Cases from a file, results to another. What each case holds is written by tests/ops/simt/cases.py. Every array is an allocation of
// its exact size, for the address sanitizer.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "status.h"

namespace cases {

inline std::FILE *input, *output;

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

inline void expect_done(const yk::Status& status) {
    if (status.code == yk::kOk) return;
    std::fprintf(stderr, "%s\n", status.message);
    std::exit(6);
}

inline std::size_t bytes(int dtype) { return dtype == 0 ? 4 : 2; }

// What runs a case, by the number that it begins with; an operator's file puts its own here, so that a program is linked of those
// operators alone that it is for.
inline void (*operations[4])();

struct Operation {
    Operation(int number, void (*run)()) { operations[number] = run; }
};

}  // namespace cases
