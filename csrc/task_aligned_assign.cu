#include <algorithm>

#include "task_aligned_assign.cuh"

namespace yk {

namespace {

template <typename T>
void launch(const AssignInput& in, const AssignOutput& out, cudaStream_t stream) {
    constexpr std::int64_t most_rows = 65535;
    const auto boxes = static_cast<unsigned>(in.images * in.gt_count);
    const dim3 anchors(static_cast<unsigned>((in.count + kAssignThreads - 1) / kAssignThreads),
                       static_cast<unsigned>(std::min(in.images, most_rows)));
    if (boxes) YK_LAUNCH(claim_anchors<T>, boxes, kAssignThreads, stream, in, out);
    YK_LAUNCH(resolve_claims<T>, anchors, kAssignThreads, stream, in, out);
    YK_LAUNCH(weigh_anchors, static_cast<unsigned>(in.images), kWeighThreads, stream, in, out);
}

}  // namespace

Status assign_cuda(const AssignInput& in, const AssignOutput& out, void* stream) {
    const Status status = check_assign(in, out);
    if (status.code != kOk || in.images == 0 || in.count == 0) return status;
    if (in.limits && in.gt_count && !out.least) return bad_argument("the address of the boxes' last claims is null");
    return by_dtype(in.dtype, [&](auto element) {
        launch<decltype(element)>(in, out, static_cast<cudaStream_t>(stream));
        const cudaError_t error = cudaGetLastError();
        return error == cudaSuccess ? ok() : Status{kCudaError, cudaGetErrorString(error)};
    });
}

}  // namespace yk
