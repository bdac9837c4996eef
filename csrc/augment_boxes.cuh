// Geometry of an outline, the same lines for the host and for the device, in the order of operations of
// yolov9k/ops/reference/augment_boxes.py.
#pragma once

#include "augment_boxes.h"
#include "box.cuh"

namespace yk {

struct Point {
    float x, y;
};

YK_HD Point project(const float* m, Point p) {
    const float depth = m[6] * p.x + m[7] * p.y + m[8];
    return {(m[0] * p.x + m[1] * p.y + m[2]) / depth, (m[3] * p.x + m[4] * p.y + m[5]) / depth};
}

// The axis-aligned hull of points that are added one by one.
struct Hull {
    Box box{0.0f, 0.0f, 0.0f, 0.0f};
    bool any = false;

    YK_HD void add(Point p) {
        box = any ? Box{smaller(p.x, box.x1), smaller(p.y, box.y1), larger(p.x, box.x2), larger(p.y, box.y2)}
                  : Box{p.x, p.y, p.x, p.y};
        any = true;
    }
};

// An outline cut to 0..width x 0..height as its points come (Sutherland and Hodgman, each side hands its points to the next,
// the last one to Rest): nothing is stored but two points a side and what Rest makes of what is left.
template <typename Rest>
struct Clipper {
    float width, height;
    Rest rest;
    Point first[4]{}, last[4]{};
    bool begun[4] = {false, false, false, false};

    YK_HD Clipper(float w, float h, Rest r = {}) : width(w), height(h), rest(r) {}

    template <int Side>
    YK_HD float distance(Point p) const {
        return Side == 0 ? p.x : Side == 1 ? width - p.x : Side == 2 ? p.y : height - p.y;
    }

    template <int Side>
    YK_HD void add(Point p) {
        if constexpr (Side == 4) {  // an intersection may lie a rounding error outside
            rest.add({smaller(larger(p.x, 0.0f), width), smaller(larger(p.y, 0.0f), height)});
        } else {
            if (begun[Side]) {
                cross<Side>(last[Side], p);
            } else {
                first[Side] = p;
            }
            begun[Side] = true;
            last[Side] = p;
            if (distance<Side>(p) >= 0.0f) add<Side + 1>(p);
        }
    }

    template <int Side>
    YK_HD void cross(Point from, Point to) {
        const float a = distance<Side>(from), b = distance<Side>(to);
        if ((a >= 0.0f) == (b >= 0.0f)) return;
        const float share = a / (a - b);
        add<Side + 1>({from.x + share * (to.x - from.x), from.y + share * (to.y - from.y)});
    }

    // From the last point back to the first.
    template <int Side = 0>
    YK_HD void close() {
        if constexpr (Side < 4) {
            if (begun[Side]) cross<Side>(last[Side], first[Side]);
            close<Side + 1>();
        }
    }
};

constexpr float kMinSide = 2.0f, kMaxAspect = 100.0f, kTiny = 1e-9f;  // as in the reference

// Whether a box is worth learning once the image's edge cut `before` down to `after`.
YK_HD bool survives(const Box& before, const Box& after, float min_area_ratio) {
    if (min_area_ratio < 0.0f) return true;
    const float wide = after.x2 - after.x1, tall = after.y2 - after.y1;
    const float brief = smaller(wide, tall), extended = larger(wide, tall);
    const float share = area(after) / larger(area(before), kTiny);
    return brief > kMinSide && extended / larger(brief, kTiny) < kMaxAspect && share > min_area_ratio;
}

}  // namespace yk
