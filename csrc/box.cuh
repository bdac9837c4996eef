// Box arithmetic, the same lines for the host and for the device, in the order of operations of the plain-torch references
// (yolov9k/ops/reference/boxes.py): both must round alike, so nothing here may be contracted into a fused multiply-add.
#pragma once

#include <cmath>

#include "simt.cuh"

namespace yk {

// Corners in pixels. Four plain floats: rows of a torch tensor are only 4-byte aligned, so this is never read as a float4.
struct Box {
    float x1, y1, x2, y2;
};

YK_HD Box box_from(const float* row) { return {row[0], row[1], row[2], row[3]}; }

YK_HD float smaller(float a, float b) { return a < b ? a : b; }
YK_HD float larger(float a, float b) { return a > b ? a : b; }
YK_HD float clamp_to_zero(float value) { return value > 0.0f ? value : 0.0f; }

YK_HD bool is_finite(const Box& box) {
    return is_finite(box.x1) && is_finite(box.y1) && is_finite(box.x2) && is_finite(box.y2);
}

YK_HD float intersection(const Box& a, const Box& b) {
    const float width = clamp_to_zero(smaller(a.x2, b.x2) - larger(a.x1, b.x1));
    const float height = clamp_to_zero(smaller(a.y2, b.y2) - larger(a.y1, b.y1));
    return width * height;
}

YK_HD float area(const Box& box) { return (box.x2 - box.x1) * (box.y2 - box.y1); }

// Intersection over union of finite boxes; 0 where the union is empty.
YK_HD float iou(const Box& a, const Box& b) {
    const float overlap = intersection(a, b);
    const float together = area(a) + area(b) - overlap;
    return together > 0.0f ? overlap / together : 0.0f;
}

// Rounded once, from double: vendors' single-precision arc tangents differ in the last bit.
YK_HD float arc_tangent(float x) { return static_cast<float>(atan(static_cast<double>(x))); }

// CIoU of a ground-truth and a predicted box (arXiv 2005.03572, eq. 10); not finite where a coordinate is not.
YK_HD float ciou(const Box& a, const Box& b) {
    constexpr float eps = 1e-7f;
    const float overlap = intersection(a, b);
    const float wa = a.x2 - a.x1, ha = a.y2 - a.y1 + eps, wb = b.x2 - b.x1, hb = b.y2 - b.y1 + eps;
    const float ratio = overlap / (wa * ha + wb * hb - overlap + eps);
    const float hull_w = larger(a.x2, b.x2) - smaller(a.x1, b.x1);
    const float hull_h = larger(a.y2, b.y2) - smaller(a.y1, b.y1);
    const float diagonal = hull_w * hull_w + hull_h * hull_h + eps;
    const float dx = b.x1 + b.x2 - a.x1 - a.x2, dy = b.y1 + b.y2 - a.y1 - a.y2;
    const float distance = (dx * dx + dy * dy) / 4.0f;
    const float angle = arc_tangent(wb / hb) - arc_tangent(wa / ha);
    const float aspect = static_cast<float>(4.0 / (M_PI * M_PI)) * (angle * angle);
    const float weight = aspect / (aspect - ratio + static_cast<float>(1.0 + 1e-7));
    return ratio - (distance / diagonal + weight * aspect);
}

// max(CIoU, 0), 0 where it is not finite.
YK_HD float clamped(float value) { return value > 0.0f && is_finite(value) ? value : 0.0f; }

}  // namespace yk
