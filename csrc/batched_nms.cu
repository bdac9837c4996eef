#include <algorithm>

#include "batched_nms.cuh"

namespace yk {

namespace {

unsigned blocks_for(std::int64_t items, std::int64_t each) { return static_cast<unsigned>((items + each - 1) / each); }

template <typename T>
void select_keys(const NmsInput& in, const NmsOutput& out, std::int64_t padded, cudaStream_t stream) {
    const auto images = static_cast<unsigned>(in.images);
    const dim3 anchors(blocks_for(in.count, kScanThreads), images);
    for (unsigned level = 0; level < 6; ++level) {
        YK_LAUNCH(tally_keys<T>, anchors, kScanThreads, stream, in, out, level);
        YK_LAUNCH(settle_digit, images, kScanThreads, stream, out, level);
    }
    YK_LAUNCH(gather_keys<T>, anchors, kScanThreads, stream, in, out, padded);
}

void sort_keys(const NmsInput& in, const NmsOutput& out, std::int64_t padded, cudaStream_t stream) {
    const auto images = static_cast<unsigned>(in.images), all = static_cast<unsigned>(padded);
    const unsigned tile = std::min(all, kTileKeys);
    const dim3 tiles(all / tile, images), pairs(blocks_for(all / 2, kScanThreads), images);
    YK_LAUNCH(sort_tiles, tiles, 512, stream, out, padded, tile, tile);
    for (unsigned run = 2 * tile; run <= all; run *= 2) {
        for (unsigned distance = run / 2; distance >= tile; distance /= 2)
            YK_LAUNCH(exchange_far, pairs, kScanThreads, stream, out, padded, run, distance);
        YK_LAUNCH(sort_tiles, tiles, 512, stream, out, padded, tile, run);
    }
}

template <typename T>
void launch(const NmsInput& in, const NmsOutput& out, cudaStream_t stream) {
    const std::int64_t padded = padded_candidates(in.classes, in.count, in.multi_label);
    select_keys<T>(in, out, padded, stream);
    sort_keys(in, out, padded, stream);
    YK_LAUNCH(suppress<T>, static_cast<unsigned>(in.images), kSuppressThreads, stream, in, out, padded);
}

}  // namespace

Status nms_cuda(const NmsInput& in, const NmsOutput& out, void* stream) {
    const Status status = check_nms(in, out);
    if (status.code != kOk || in.images == 0 || in.count == 0) return status;
    return by_dtype(in.dtype, [&](auto element) {
        launch<decltype(element)>(in, out, static_cast<cudaStream_t>(stream));
        const cudaError_t error = cudaGetLastError();
        return error == cudaSuccess ? ok() : Status{kCudaError, cudaGetErrorString(error)};
    });
}

}  // namespace yk
