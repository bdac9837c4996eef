#include "box.h"

#include <limits>

#include "box.cuh"

namespace yk {

Status check_pairwise(const void* a, std::int64_t n, const void* b, std::int64_t m, const void* out) {
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();  // keeps n * m within 64 bits
    if (n < 0 || m < 0) return bad_argument("the number of boxes is negative");
    if (n > most || m > most) return bad_argument("more than 2147483647 boxes");
    if ((n > 0 && !a) || (m > 0 && !b)) return bad_argument("the address of the boxes is null");
    if (n > 0 && m > 0 && !out) return bad_argument("the address of the output is null");
    return ok();
}

Status pairwise_iou(const float* a, std::int64_t n, const float* b, std::int64_t m, float* out) {
    const Status status = check_pairwise(a, n, b, m, out);
    if (status.code != kOk) return status;
    const Box* rows = reinterpret_cast<const Box*>(a);
    const Box* columns = reinterpret_cast<const Box*>(b);
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < m; ++j) out[i * m + j] = iou(rows[i], columns[j]);
    return ok();
}

}  // namespace yk
