// CUDA's execution model on host threads, so that the kernels of csrc/ run, unchanged, where there is no GPU and under
// sanitizers: a thread for each CUDA thread of a block, blocks one after another, barriers that wait for every thread.
// Shared memory is static; atomics are relaxed ones, so that a missing barrier is a data race to ThreadSanitizer.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

inline thread_local dim3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace simt {

class Barrier {
  public:
    explicit Barrier(unsigned size) { pthread_barrier_init(&barrier_, nullptr, size); }
    Barrier(const Barrier&) = delete;
    ~Barrier() { pthread_barrier_destroy(&barrier_); }
    void wait() { pthread_barrier_wait(&barrier_); }

  private:
    pthread_barrier_t barrier_;
};

struct Warp {
    explicit Warp(unsigned size) : barrier(size), lanes(size) {}
    Barrier barrier;
    unsigned lanes;
    std::uint64_t values[32] = {};
};

struct Block {
    explicit Block(unsigned size) : barrier(size), votes(size) {
        for (unsigned first = 0; first < size; first += 32) warps.push_back(std::make_unique<Warp>(std::min(size - first, 32u)));
    }
    Barrier barrier;
    std::vector<unsigned char> votes;
    std::vector<std::unique_ptr<Warp>> warps;
};

inline Block* block;  // the one that runs

// Every lane's value, seen by every lane: read(values, lanes).
template <typename Read>
auto exchange(std::uint64_t value, const Read& read) {
    Warp& warp = *block->warps[threadIdx.x / 32];
    warp.values[threadIdx.x % 32] = value;
    warp.barrier.wait();
    const auto result = read(warp.values, warp.lanes);
    warp.barrier.wait();
    return result;
}

template <typename Kernel>
void launch(dim3 grid, dim3 threads, cudaStream_t, const Kernel& kernel) {
    const auto allowed = [](unsigned n, unsigned most) { return n >= 1 && n <= most; };
    if (!allowed(grid.x, 2147483647u) || !allowed(grid.y, 65535u) || !allowed(threads.x, 1024u)) {
        std::fprintf(stderr, "simt: a device refuses a grid of %u x %u blocks of %u\n", grid.x, grid.y, threads.x);
        std::_Exit(3);
    }
    Block state(threads.x);
    block = &state;
    blockDim = threads;
    gridDim = grid;
    std::vector<std::thread> team;
    for (unsigned t = 0; t < threads.x; ++t)
        team.emplace_back([&, t] {
            threadIdx = dim3(t);
            for (unsigned y = 0; y < grid.y; ++y)
                for (unsigned x = 0; x < grid.x; ++x) {
                    blockIdx = dim3(x, y);
                    kernel();
                    state.barrier.wait();  // shared memory is one: the next block starts when all have left this one
                }
        });
    for (std::thread& member : team) member.join();
}

}  // namespace simt

inline void __syncthreads() { simt::block->barrier.wait(); }

inline int __syncthreads_or(int vote) {
    simt::block->votes[threadIdx.x] = vote != 0;
    simt::block->barrier.wait();
    const auto& votes = simt::block->votes;
    const bool any = std::any_of(votes.begin(), votes.end(), [](unsigned char v) { return v; });
    simt::block->barrier.wait();
    return any;
}

inline unsigned __ballot_sync(unsigned, int vote) {
    return simt::exchange(vote != 0, [](const std::uint64_t* values, unsigned lanes) {
        unsigned word = 0;
        for (unsigned lane = 0; lane < lanes; ++lane) word |= static_cast<unsigned>(values[lane]) << lane;
        return word;
    });
}

inline unsigned long long __shfl_xor_sync(unsigned, unsigned long long value, int mask) {
    const unsigned other = threadIdx.x % 32 ^ static_cast<unsigned>(mask);
    return simt::exchange(value, [&](const std::uint64_t* values, unsigned lanes) { return values[other < lanes ? other : 0]; });
}

template <typename T>
T atomicAdd(T* place, T value) {
    return __atomic_fetch_add(place, value, __ATOMIC_RELAXED);
}

template <typename T>
T atomicMax(T* place, T value) {
    T old = __atomic_load_n(place, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange_n(place, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

inline int __ffs(int word) { return __builtin_ffs(word); }
