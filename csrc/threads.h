// A loop over independent images on a few threads of the host.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "status.h"

namespace yk {

// Calls work(i) for i in 0..count-1, each once, on at most `threads` threads; fewer where the system gives no more. An
// exception, which can only be that memory is used up, ends that thread's share and becomes the status.
template <typename Work>
Status parallel_for(std::int64_t count, int threads, const Work& work) {
    std::atomic<std::int64_t> next{0};
    std::atomic<bool> failed{false};
    const auto run = [&] {
        try {
            for (std::int64_t i; !failed && (i = next.fetch_add(1)) < count;) work(i);
        } catch (...) {
            failed = true;
        }
    };
    std::vector<std::thread> helpers;
    try {
        for (std::int64_t i = 1; i < std::min<std::int64_t>(threads, count); ++i) helpers.emplace_back(run);
    } catch (...) {  // no thread, or no memory for one: go on with those there are
    }
    run();
    for (std::thread& helper : helpers) helper.join();
    return failed ? Status{kOutOfMemory, "the host's memory is used up"} : ok();
}

}  // namespace yk
