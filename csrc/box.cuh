// Box arithmetic, the same lines for the host and for the device.
#pragma once

#ifdef __CUDACC__
#define YK_HD __host__ __device__ __forceinline__
#else
#define YK_HD inline
#endif

namespace yk {

// Corners in pixels. Four plain floats: rows of a torch tensor are only 4-byte aligned, so this is never read as a float4.
struct Box {
    float x1, y1, x2, y2;
};

// Negative becomes zero and NaN stays NaN, which fmaxf would hide.
YK_HD float clamp_to_zero(float value) { return value < 0.0f ? 0.0f : value; }

YK_HD float area(const Box& box) { return clamp_to_zero(box.x2 - box.x1) * clamp_to_zero(box.y2 - box.y1); }

YK_HD float intersection(const Box& a, const Box& b) {
    const float width = (a.x2 < b.x2 ? a.x2 : b.x2) - (a.x1 > b.x1 ? a.x1 : b.x1);
    const float height = (a.y2 < b.y2 ? a.y2 : b.y2) - (a.y1 > b.y1 ? a.y1 : b.y1);
    return clamp_to_zero(width) * clamp_to_zero(height);
}

// Intersection over union; 0 where both boxes are empty, NaN where a coordinate is NaN (the areas carry it).
YK_HD float iou(const Box& a, const Box& b) {
    const float overlap = intersection(a, b);
    const float together = area(a) + area(b) - overlap;
    return together == 0.0f ? 0.0f : overlap / together;
}

}  // namespace yk
