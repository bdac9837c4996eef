// A loop over independent images on a few threads of the host.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace yk {

// Calls work(i) for i in 0..count-1, each once, on at most `threads` threads. `work` must not throw.
template <typename Work>
void parallel_for(std::int64_t count, int threads, const Work& work) {
    std::atomic<std::int64_t> next{0};
    const auto run = [&] {
        for (std::int64_t i; (i = next.fetch_add(1)) < count;) work(i);
    };
    std::vector<std::thread> helpers;
    for (std::int64_t i = 1; i < std::min<std::int64_t>(threads, count); ++i) helpers.emplace_back(run);
    run();
    for (std::thread& helper : helpers) helper.join();
}

}  // namespace yk
