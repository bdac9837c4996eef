// Element types of what torch hands over, and the choice of the code that is compiled for each.
#pragma once

#include <cstdint>

#include "status.h"

namespace yk {

enum class Dtype : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// Floats kept in 16 bits, widened by hand (simt.cuh): the CUDA headers' types would make the host compilers need the toolkit.
struct BFloat16 {
    std::uint16_t bits;
};

struct Half {
    std::uint16_t bits;
};

// use(T{}) for the dtype's T.
template <typename Use>
Status by_dtype(Dtype dtype, const Use& use) {
    switch (dtype) {
        case Dtype::kFloat32:
            return use(float{});
        case Dtype::kBFloat16:
            return use(BFloat16{});
        case Dtype::kFloat16:
            return use(Half{});
    }
    return bad_argument("no such dtype");
}

}  // namespace yk
