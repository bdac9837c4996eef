// One spelling of the device's vocabulary for three compilers: nvcc, a host compiler that wants the shared math alone, and
// a host compiler that runs the kernels themselves on threads (tests/ops/simt/shim.h, chosen by YK_SIMT).
#pragma once

#include <cstdint>
#include <cstring>

#include "dtype.h"

#if defined(__CUDACC__)
#define YK_HD __host__ __device__ __forceinline__
#elif defined(YK_SIMT)
#define YK_HD inline
#include "shim.h"
#else
#define YK_HD inline
#endif

#if defined(__CUDACC__) || defined(YK_SIMT)
#define YK_KERNELS  // the kernels are compiled too
#endif

// kernel<<<grid, block, 0, stream>>>(arguments...)
#if defined(__CUDACC__)
#define YK_LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
#elif defined(YK_SIMT)
#define YK_LAUNCH(kernel, grid, block, stream, ...) simt::launch(grid, block, stream, [&] { kernel(__VA_ARGS__); })
#endif

namespace yk {

YK_HD float from_bits(std::uint32_t bits) {
    float value;
#if defined(__CUDA_ARCH__)
    value = __uint_as_float(bits);
#else
    std::memcpy(&value, &bits, sizeof value);
#endif
    return value;
}

YK_HD std::uint32_t to_bits(float value) {
#if defined(__CUDA_ARCH__)
    return __float_as_uint(value);
#else
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

YK_HD float widen(float value) { return value; }

YK_HD float widen(BFloat16 value) { return from_bits(static_cast<std::uint32_t>(value.bits) << 16); }

YK_HD float widen(Half value) {
    const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
    const std::uint32_t rest = static_cast<std::uint32_t>(value.bits & 0x7fffu) << 13;  // exponent and mantissa in place
    // 2^112 moves the exponent's bias from 15 to 127 and normalizes what was subnormal; 31 was infinity or NaN.
    const float scaled = from_bits(rest) * 5.192296858534828e33f;
    return from_bits(sign | ((value.bits & 0x7c00u) == 0x7c00u ? (rest | 0x7f800000u) : to_bits(scaled)));
}

YK_HD bool is_finite(float value) { return (to_bits(value) & 0x7f800000u) != 0x7f800000u; }

}  // namespace yk
