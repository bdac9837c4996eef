#include <algorithm>

#include "box.cuh"
#include "box.h"

namespace yk {

namespace {

__global__ void pairwise_iou_kernel(const Box* __restrict__ a, const Box* __restrict__ b, std::int64_t m,
                                    std::int64_t pairs, float* __restrict__ out) {
    const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
    for (std::int64_t k = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < pairs; k += stride)
        out[k] = iou(a[k / m], b[k % m]);
}

}  // namespace

Status pairwise_iou_cuda(const float* a, std::int64_t n, const float* b, std::int64_t m, float* out, void* stream) {
    const Status status = check_pairwise(a, n, b, m, out);
    const std::int64_t pairs = n * m;
    if (status.code != kOk || pairs == 0) return status;
    constexpr int threads = 256;
    constexpr std::int64_t most_blocks = 1 << 16;  // past this the grid-stride loop takes over
    const auto blocks = static_cast<unsigned>(std::min((pairs + threads - 1) / threads, most_blocks));
    pairwise_iou_kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(
        reinterpret_cast<const Box*>(a), reinterpret_cast<const Box*>(b), m, pairs, out);
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? ok() : Status{kCudaError, cudaGetErrorString(error)};
}

}  // namespace yk
