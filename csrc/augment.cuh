// The arithmetic of augment, the same lines for the host and for the device. Coordinates are float32 in the order of
// operations of yolov9k/ops/reference/augment.py; from there on all is integers.
#pragma once

#include <cstdlib>

#include "augment_layers.h"
#include "simt.cuh"

namespace yk {

constexpr int kFractionBits = 11, kFraction = 1 << kFractionBits;  // places between two pixels
constexpr float kFar = 524288.0f;                                  // pixels; coordinates are cut off there
constexpr int kUnitBits = 15, kUnit = 1 << kUnitBits;              // a weight or a gain of 1
constexpr int kHues = 180, kSector = 30;  // OpenCV's hue counts to 180, a sixth of it lies between two pure colors
constexpr std::uint32_t kGray = 0x727272;  // of what no layer covers

struct Color {
    int blue, green, red;
};

YK_HD Color unpack(std::uint32_t color) {
    return {static_cast<int>(color & 255), static_cast<int>(color >> 8 & 255), static_cast<int>(color >> 16 & 255)};
}

YK_HD std::uint32_t pack(int blue, int green, int red) {
    return static_cast<std::uint32_t>(blue) | static_cast<std::uint32_t>(green) << 8 | static_cast<std::uint32_t>(red) << 16;
}

YK_HD int min_of(int a, int b) { return a < b ? a : b; }
YK_HD int max_of(int a, int b) { return a > b ? a : b; }

// Rounded down; |value| < 2^31.
YK_HD int floor_of(float value) {
    const int cut = static_cast<int>(value);
    return cut - (static_cast<float>(cut) > value ? 1 : 0);
}

// A coordinate in 1 / kFraction pixels; NaN goes to -kFar.
YK_HD int place(float pixels) {
    const float above = pixels > -kFar ? pixels : -kFar;
    const float near = above < kFar ? above : kFar;
    return floor_of(near * kFraction + 0.5f);
}

// A weight or a gain in units of 1 / kUnit, between 0 and `largest`.
YK_HD int fixed(float value, float largest) {
    const float above = value > 0.0f ? value : 0.0f;
    return floor_of((above < largest ? above : largest) * kUnit + 0.5f);
}

YK_HD bool holds(const PlacedImage& placed, std::int64_t column, std::int64_t row) {
    const std::int64_t x = column - placed.left, y = row - placed.top;
    if (x < 0 || y < 0 || x >= placed.width || y >= placed.height) return false;
    return !placed.mask || placed.mask[y * placed.mask_stride + x];
}

// The canvas of `count` images at a whole pixel: the last one that is opaque there, gray where there is none.
YK_HD std::uint32_t canvas_color(const PlacedImage* all_placed, int count, int column, int row) {
    for (int k = count; k-- > 0;) {
        if (!holds(all_placed[k], column, row)) continue;
        const PlacedImage& placed = all_placed[k];
        const std::uint8_t* p = placed.image + (row - placed.top) * placed.stride + 3 * (column - placed.left);
        return pack(p[0], p[1], p[2]);
    }
    return kGray;
}

// One channel of four neighbors: to the right by `right`, below by `below`, both of kFraction.
YK_HD int bilinear(int here, int next, int under, int across, int right, int below) {
    const int upper = here * (kFraction - right) + next * right, lower = under * (kFraction - right) + across * right;
    const int half = 1 << (2 * kFractionBits - 1);
    return (upper * (kFraction - below) + lower * below + half) >> 2 * kFractionBits;
}

YK_HD std::uint32_t bilinear(Color here, Color next, Color under, Color across, int right, int below) {
    return pack(bilinear(here.blue, next.blue, under.blue, across.blue, right, below),
                bilinear(here.green, next.green, under.green, across.green, right, below),
                bilinear(here.red, next.red, under.red, across.red, right, below));
}

// scale / divisor in 1 / 4096, rounded (never a tie); a quotient of float32 is near enough.
YK_HD int reciprocal(int scale, int divisor) {
    return static_cast<int>(static_cast<float>(scale * 4096) / static_cast<float>(max_of(divisor, 1)) + 0.5f);
}

// value - product * part / (255 * kSector), the latter rounded, where product is value * saturation and part of kSector is how
// much of it a channel loses: all where the hue is within a sector of `center`, nothing from two sectors on. Every float but
// the quotient is a whole number or a half one; its error stays below half a unit of the numerator.
YK_HD int faded(int value, float product, int hue, int center) {
    const int beyond = std::abs(std::abs(hue - center) - kHues / 2) - kSector;  // the hue goes round
    const float part = static_cast<float>(min_of(max_of(beyond, 0), kSector));
    return value - static_cast<int>((product * part + (255 * kSector + 1) / 2.0f) * (1.0f / (255 * kSector)));
}

YK_HD int wrapped(int hue) { return hue >= kHues ? hue - kHues : hue; }

struct Shade {
    int hue, product, value;  // product: of saturation and value
};

// A color whose hue, saturation and value are multiplied by gains of 1 / kUnit, at most 2, in OpenCV's 8 bits.
YK_HD Shade to_shade(std::uint32_t color, int hue_gain, int saturation_gain, int value_gain) {
    const Color c = unpack(color);
    const int bright = max_of(max_of(c.blue, c.green), c.red), spread = bright - min_of(min_of(c.blue, c.green), c.red);
    int turn = c.red - c.green + 4 * spread;
    turn = bright == c.green ? c.blue - c.red + 2 * spread : turn;
    turn = bright == c.red ? c.green - c.blue : turn;
    const int angle = (turn * reciprocal(kSector, spread) + 2048) >> 12;
    const int pure = (spread * reciprocal(255, bright) + 2048) >> 12;
    const int hue = wrapped((angle < 0 ? angle + kHues : angle) * hue_gain >> kUnitBits);
    const int saturation = min_of(pure * saturation_gain >> kUnitBits, 255),
              value = min_of(bright * value_gain >> kUnitBits, 255);
    return {hue, value * saturation, value};
}

YK_HD std::uint32_t from_shade(Shade s) {
    const float product = static_cast<float>(s.product);
    return pack(faded(s.value, product, s.hue, kSector), faded(s.value, product, s.hue, 5 * kSector),
                faded(s.value, product, s.hue, 3 * kSector));
}

YK_HD std::uint32_t recolor(std::uint32_t color, int hue_gain, int saturation_gain, int value_gain) {
    return from_shade(to_shade(color, hue_gain, saturation_gain, value_gain));
}

}  // namespace yk
