// Elements of maps as floats, and functions of them that a compiler turns into vector instructions.
#pragma once

#include <cstdint>
#include <cstring>

#include "clones.h"
#include "dtype.h"

namespace yk {

template <typename To, typename From>
YK_INLINE To bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "of one size");
    To result;
    std::memcpy(&result, &value, sizeof(To));
    return result;
}

YK_INLINE float load(float value) { return value; }
YK_INLINE float load(BFloat16 value) { return bits<float>(static_cast<std::uint32_t>(value.bits) << 16); }

YK_INLINE void store(float& to, float value) { to = value; }
YK_INLINE void store(BFloat16& to, float value) {  // to the nearest, ties to even
    const std::uint32_t raw = bits<std::uint32_t>(value);
    const std::uint32_t rounded = (raw + 0x7fffu + ((raw >> 16) & 1u)) >> 16;
    to.bits = static_cast<std::uint16_t>(value == value ? rounded : 0x7fc0u);
}

// e^x within two units in the last place, for x between -64 and 64, beyond which it stays (a sigmoid is 0 there to 1e-25, and
// no denormal number slows the loop): x = n ln 2 + r, e^r by a polynomial (least squares at Chebyshev's points, relative error
// 1.2e-8), n into the exponent.
YK_INLINE float exponential(float x) {
    x = x < -64.0f ? -64.0f : x;
    x = x > 64.0f ? 64.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f;  // the sum's last bits are n
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 0.0013935454189777374f;
    p = p * r + 0.00836438313126564f;
    p = p * r + 0.04166644811630249f;
    p = p * r + 0.1666657030582428f;
    p = p * r + 0.5f;
    return (p * (r * r) + r + 1.0f) * bits<float>((bits<std::uint32_t>(shifted) << 23) + 0x3f800000u);
}

}  // namespace yk
