// Launchers of the box operators. Boxes are float32 rows x1 y1 x2 y2; `out` is [n, m]; nothing here allocates or waits.
#pragma once

#include <cstdint>

#include "status.h"

namespace yk {

Status check_pairwise(const void* a, std::int64_t n, const void* b, std::int64_t m, const void* out);

Status pairwise_iou(const float* a, std::int64_t n, const float* b, std::int64_t m, float* out);

#ifdef YK_WITH_CUDA
// Enqueues on `stream` (a cudaStream_t) of the current device.
Status pairwise_iou_cuda(const float* a, std::int64_t n, const float* b, std::int64_t m, float* out, void* stream);
#endif

}  // namespace yk
