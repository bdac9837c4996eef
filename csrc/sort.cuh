// Sorting keys within a block: bitonic (Batcher, 1968), data-independent, so every run makes the same exchanges.
#pragma once

#include "simt.cuh"

namespace yk {

// A score above 0 and an index in one number: higher scores first, ties to the lowest index, no two alike.
YK_HD std::uint64_t make_key(float score, std::uint32_t index) {
    return (static_cast<std::uint64_t>(to_bits(score)) << 32) | static_cast<std::uint32_t>(~index);
}

YK_HD float score_of(std::uint64_t key) { return from_bits(static_cast<std::uint32_t>(key >> 32)); }
YK_HD std::uint32_t index_of(std::uint64_t key) { return ~static_cast<std::uint32_t>(key); }

#ifdef YK_KERNELS

// One exchange of the network over a whole array: element i of a pair with i ^ distance; `descending` is the pair's order.
__device__ __forceinline__ void exchange(std::uint64_t& first, std::uint64_t& second, bool descending) {
    if ((first < second) == descending) {
        const std::uint64_t held = first;
        first = second;
        second = held;
    }
}

// The steps of half-cleaner `distance` and below, over `size` keys in shared memory; `start` is the place of keys[0] in the
// array being sorted, `run` the length of the runs this stage merges. All threads of the block take part.
__device__ inline void merge_in_block(std::uint64_t* keys, unsigned size, unsigned start, unsigned run, unsigned distance) {
    for (; distance > 0; distance /= 2) {
        for (unsigned pair = threadIdx.x; pair < size / 2; pair += blockDim.x) {
            const unsigned i = 2 * pair - (pair & (distance - 1));
            exchange(keys[i], keys[i + distance], ((start + i) & run) == 0);
        }
        __syncthreads();
    }
}

// Sorts `size` keys (a power of two) in shared memory; blocks at an odd multiple of `size` sort upwards, as the next stage
// of a larger sort needs. A barrier must stand before; one stands after.
__device__ inline void sort_in_block(std::uint64_t* keys, unsigned size, unsigned start) {
    for (unsigned run = 2; run <= size; run *= 2) merge_in_block(keys, size, start, run, run / 2);
}

#endif

}  // namespace yk
