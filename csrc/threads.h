// A loop over independent tasks on a few threads of the host.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <dlfcn.h>
#include <unistd.h>
#endif

#include "status.h"

namespace yk {

using OpenMp = void (*)(void (*)(void*), void*, unsigned, unsigned);

// OpenMP's loop of the library that torch has loaded, null where there is none. Its threads are awake already and wait for
// work; threads of our own would be started for each loop, and compete with those. A forked process does not have them.
inline OpenMp shared_threads() {
#if defined(__linux__) && !defined(__SANITIZE_THREAD__)  // which does not see how OpenMP's threads wait for each other
    static const OpenMp loop = reinterpret_cast<OpenMp>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    static const pid_t loaded_in = getpid();
    return getpid() == loaded_in ? loop : nullptr;
#else
    return nullptr;
#endif
}

// Runs `run` on `threads` threads at once; fewer where the system gives no more.
template <typename Run>
void on_threads(std::int64_t threads, const Run& run) {
    if (const OpenMp loop = threads > 1 ? shared_threads() : nullptr) {
        const auto call = [](void* data) { (*static_cast<const Run*>(data))(); };
        return loop(call, const_cast<void*>(static_cast<const void*>(&run)), static_cast<unsigned>(threads), 0);
    }
    std::vector<std::thread> helpers;
    try {
        for (std::int64_t i = 1; i < threads; ++i) helpers.emplace_back(std::cref(run));
    } catch (...) {  // no thread, or no memory for one: go on with those there are
    }
    run();
    for (std::thread& helper : helpers) helper.join();
}

// Calls work(i) for i in 0..count-1, each once, on at most `threads` threads. An exception, which can only be that memory is
// used up, ends that thread's share and becomes the status.
template <typename Work>
Status parallel_for(std::int64_t count, int threads, const Work& work) {
    std::atomic<std::int64_t> next{0};
    std::atomic<bool> failed{false};
    on_threads(std::min<std::int64_t>(threads, count), [&] {
        try {
            for (std::int64_t i; !failed && (i = next.fetch_add(1)) < count;) work(i);
        } catch (...) {
            failed = true;
        }
    });
    return failed ? Status{kOutOfMemory, "the host's memory is used up"} : ok();
}

}  // namespace yk
