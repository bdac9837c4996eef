// The host backend of conv_bn_silu: passes over tiles of rows that stay in the first cache from a tile's first loop to its
// last.
#include "conv_bn_silu.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <vector>

#include "conv_bn_silu_tiles.h"
#include "threads.h"

namespace yk {

namespace {

// work(first row, rows) for the tiles of a task.
template <typename Work>
void each_tile(const Cut& cut, std::int64_t task, Work work) {
    const std::int64_t end = std::min(cut.rows, (task + 1) * cut.block);
    for (std::int64_t row = task * cut.block; row < end; row += cut.tile) work(row, std::min(cut.tile, end - row));
}

// The tiles of every task; begin() makes a task's own `work`.
template <typename Begin>
Status over_tiles(const Cut& cut, int threads, const Begin& begin) {
    return parallel_for(cut.blocks(), threads, [&](std::int64_t b) { each_tile(cut, b, begin()); });
}

// Sums by channel over the whole map, `kinds` of them: begin(sums of a task, kind after kind along a strip) makes its `work`,
// as above; tasks are merged in their order.
template <typename Begin>
Status reduce(const Cut& cut, int kinds, int threads, std::vector<double>& total, const Begin& begin) {
    const std::int64_t length = cut.length(), width = kinds * cut.channels;
    std::vector<double> partial(static_cast<std::size_t>(width * cut.blocks()));
    const Status status = parallel_for(cut.blocks(), threads, [&](std::int64_t b) {
        std::vector<double> sums(static_cast<std::size_t>(kinds * length));
        each_tile(cut, b, begin(sums.data()));
        double* into = partial.data() + width * b;
        for (int kind = 0; kind < kinds; ++kind)
            for (std::int64_t i = 0; i < length; ++i) into[kind * cut.channels + i % cut.channels] += sums[kind * length + i];
    });
    total.assign(static_cast<std::size_t>(width), 0.0);
    for (std::size_t i = 0; i < partial.size(); ++i) total[i % total.size()] += partial[i];
    return status;
}

Status check(const BnShape& shape, std::initializer_list<const void*> addresses, std::initializer_list<BnRows> rows) {
    if (shape.rows < 1 || shape.channels < 1) return bad_argument("the map is empty");
    if (shape.dtype != Dtype::kFloat32 && shape.dtype != Dtype::kBFloat16)
        return bad_argument("the map is not float32 or bfloat16");
    for (const void* address : addresses)
        if (!address) return bad_argument("an address is null");
    for (const BnRows& each : rows) {
        if (!each.data) return bad_argument("an address is null");
        if (each.pitch < shape.channels) return bad_argument("rows lie over each other");
    }
    return ok();
}

Status check_maps(const BnShape& shape, const BnMap* maps, int count) {
    if (count < 1 || count > kBnMaps) return bad_argument("one or two maps are added");
    for (int m = 0; m < count; ++m) {
        const BnVectors& v = maps[m].vectors;
        const Status status = check(shape, {v.gamma, v.beta, v.mean, v.invstd}, {maps[m].z});
        if (status.code != kOk) return status;
    }
    return ok();
}

template <typename T>
Status statistics(const BnShape& shape, const BnRows& z, double* mean, double* spread, int threads) {
    const Cut cut(shape);
    std::vector<float> first(static_cast<std::size_t>(cut.channels));  // deviations from it are small where the spread is
    for (std::int64_t c = 0; c < cut.channels; ++c) first[c] = load(static_cast<const T*>(z.data)[c]);
    const std::vector<float> shift = cut.repeat(first);
    std::vector<double> total;
    const Status status = reduce(cut, 2, threads, total, [&](double* sums) {
        return [&, sums, reader = Reader<T>(cut, z)](std::int64_t row, std::int64_t rows) mutable {
            run_squares(reader.at(row, rows), rows * cut.channels, shift.data(), cut.length(), sums, sums + cut.length());
        };
    });
    const double rows = static_cast<double>(cut.rows);
    for (std::int64_t c = 0; c < cut.channels; ++c) {
        const double offset = total[c] / rows;
        const double squares = std::max(0.0, total[cut.channels + c] - offset * total[c]);
        mean[c] = first[c] + offset;
        spread[c] = offset == offset ? squares : offset;
    }
    return status;
}

// What a pass needs of its maps: constants, and for each task readers of their rows.
template <typename T>
struct Maps {
    const Cut& cut;
    const BnMap* maps;
    std::vector<Repeated> repeated;

    Maps(const Cut& cut, const BnMap* maps, int count) : cut(cut), maps(maps) {
        for (int m = 0; m < count; ++m) repeated.push_back(Repeated::of(cut, maps[m].vectors));
    }

    int count() const { return static_cast<int>(repeated.size()); }

    std::vector<Reader<T>> readers() const {
        std::vector<Reader<T>> result;
        for (int m = 0; m < count(); ++m) result.emplace_back(cut, maps[m].z);
        return result;
    }

    std::vector<float> buffer() const { return std::vector<float>(static_cast<std::size_t>(cut.tile * cut.channels)); }
};

template <typename T>
Status forward(const BnShape& shape, const BnMap* maps, int count, bool activation, const BnRows& residual, const BnRows& y,
               int threads) {
    const Cut cut(shape);
    const Maps<T> in(cut, maps, count);
    return over_tiles(cut, threads, [&] {
        return [&, readers = in.readers(), added = Reader<T>(cut, residual), out = Writer<T>(cut, y), u = in.buffer()](
                   std::int64_t row, std::int64_t rows) mutable {
            const std::int64_t elements = rows * cut.channels;
            for (int m = 0; m < in.count(); ++m)
                run_normalize(readers[m].at(row, rows), elements, in.repeated[m], m > 0, u.data());
            run_activate(u.data(), residual.data ? added.at(row, rows) : nullptr, elements, activation, out.at(row));
            out.done(row, rows);
        };
    });
}

template <typename T>
Status apply_table(const BnShape& shape, const BnRows& z, const BnTable& table, const BnRows& y, int threads) {
    const Cut cut(shape);
    const Repeated repeated(cut, table.center, table.scale, table.shift);
    const std::vector<float> active = cut.repeat(std::vector<float>(table.active, table.active + cut.channels));
    return over_tiles(cut, threads, [&] {
        return [&, in = Reader<T>(cut, z), out = Writer<T>(cut, y),
                u = std::vector<float>(static_cast<std::size_t>(cut.tile * cut.channels))](std::int64_t row,
                                                                                           std::int64_t rows) mutable {
            const std::int64_t elements = rows * cut.channels;
            run_normalize(in.at(row, rows), elements, repeated, false, u.data());
            run_activate_where(u.data(), active.data(), cut.length(), elements, out.at(row));
            out.done(row, rows);
        };
    });
}

template <typename T>
Status backward_reduce(const BnShape& shape, const BnRows* grads, int grad_count, const BnMap* maps, int count, bool activation,
                       const BnRows& result, double* sums, int threads) {
    const Cut cut(shape);
    const Maps<T> in(cut, maps, count);
    std::vector<double> total;
    const Status status = reduce(cut, 1 + count, threads, total, [&](double* into) {
        std::vector<Reader<T>> sources;
        for (int s = 0; s < grad_count; ++s) sources.emplace_back(cut, grads[s]);
        return [&, into, sources, readers = in.readers(), out = Writer<T>(cut, result), u = in.buffer(), g = in.buffer()](
                   std::int64_t row, std::int64_t rows) mutable {
            const std::int64_t elements = rows * cut.channels, length = cut.length();
            for (std::size_t s = 0; s < sources.size(); ++s) run_collect(sources[s].at(row, rows), elements, s > 0, g.data());
            const T* z[kBnMaps] = {};
            for (int m = 0; m < in.count(); ++m) {
                z[m] = readers[m].at(row, rows);
                if (activation) run_normalize(z[m], elements, in.repeated[m], m > 0, u.data());
            }
            run_back(u.data(), elements, activation, g.data(), out.at(row));
            out.done(row, rows);
            run_sum(g.data(), elements, length, into);
            for (int m = 0; m < in.count(); ++m)
                run_products(g.data(), z[m], elements, in.repeated[m].mean.data(), length, into + (1 + m) * length);
        };
    });
    for (std::int64_t c = 0; c < cut.channels; ++c) {
        sums[c] = total[c];
        for (int m = 0; m < count; ++m) {
            const BnVectors& v = maps[m].vectors;
            const std::int64_t at = (1 + m) * cut.channels + c;
            sums[at] = (total[at] - Repeated::rest(v.mean[c]) * total[c]) * v.invstd[c];
        }
    }
    return status;
}

template <typename T>
Status backward_apply(const BnShape& shape, const BnRows& grad, const BnMap* maps, int count, const double* sums, double total,
                      const BnRows* results, int threads) {
    const Cut cut(shape);
    const Maps<T> in(cut, maps, count);
    std::vector<std::vector<float>> shifts, slopes;
    for (int m = 0; m < count; ++m) {
        std::vector<float> shift(static_cast<std::size_t>(cut.channels)), slope(shift.size());
        for (std::int64_t c = 0; sums && c < cut.channels; ++c) {
            const BnVectors& v = maps[m].vectors;
            const double pull = sums[(1 + m) * cut.channels + c] / total * v.invstd[c];
            slope[c] = static_cast<float>(pull);
            shift[c] = static_cast<float>(sums[c] / total - Repeated::rest(v.mean[c]) * pull);
        }
        shifts.push_back(cut.repeat(shift));
        slopes.push_back(cut.repeat(slope));
    }
    return over_tiles(cut, threads, [&] {
        std::vector<Writer<T>> outs;
        for (int m = 0; m < count; ++m) outs.emplace_back(cut, results[m]);
        return [&, outs, readers = in.readers(), source = Reader<T>(cut, grad), g = in.buffer()](std::int64_t row,
                                                                                                 std::int64_t rows) mutable {
            const std::int64_t elements = rows * cut.channels;
            run_collect(source.at(row, rows), elements, false, g.data());
            for (int m = 0; m < in.count(); ++m) {
                run_propagate(g.data(), readers[m].at(row, rows), elements, in.repeated[m], shifts[m].data(), slopes[m].data(),
                              outs[m].at(row));
                outs[m].done(row, rows);
            }
        };
    });
}

}  // namespace

Status bn_statistics_cpu(const BnShape& shape, const BnRows& z, double* mean, double* spread, int threads) {
    const Status status = check(shape, {mean, spread}, {z});
    if (status.code != kOk) return status;
    return (shape.dtype == Dtype::kFloat32 ? statistics<float> : statistics<BFloat16>)(shape, z, mean, spread, threads);
}

Status bn_settle_cpu(const BnShape& shape, const double* mean, const double* spread, double eps, double* found,
                     const BnRunning& running, const float* gamma, const float* beta, bool active, const BnTable& table) {
    const Status status = check(shape, {mean, spread, found}, {});
    if (status.code != kOk) return status;
    const bool deferred = gamma != nullptr, moves = running.mean != nullptr;
    if (deferred && !(beta && table.center && table.scale && table.shift && table.active))
        return bad_argument("an address is null");
    if (moves && !(running.var && running.batches)) return bad_argument("an address is null");
    const double rows = static_cast<double>(shape.rows);
    for (std::int64_t c = 0; c < shape.channels; ++c) {
        const double invstd = 1.0 / std::sqrt(spread[c] / rows + eps);
        found[c] = mean[c];
        found[shape.channels + c] = invstd;
        if (moves) {
            running.mean[c] = static_cast<float>(running.mean[c] + running.momentum * (mean[c] - running.mean[c]));
            const double unbiased = spread[c] / (rows - 1.0);
            running.var[c] = static_cast<float>(running.var[c] + running.momentum * (unbiased - running.var[c]));
        }
        if (deferred) {
            table.center[c] = mean[c];
            table.scale[c] = invstd * gamma[c];
            table.shift[c] = beta[c];
            table.active[c] = active ? 1.0 : 0.0;
        }
    }
    if (moves) ++*running.batches;
    return status;
}

Status bn_silu_cpu(const BnShape& shape, const BnMap* maps, int count, bool activation, const BnRows& residual, const BnRows& y,
                   int threads) {
    Status status = check(shape, {}, {y});
    if (status.code == kOk) status = check_maps(shape, maps, count);
    if (status.code == kOk && residual.data) status = check(shape, {}, {residual});
    if (status.code != kOk) return status;
    const auto run = shape.dtype == Dtype::kFloat32 ? forward<float> : forward<BFloat16>;
    return run(shape, maps, count, activation, residual, y, threads);
}

Status bn_apply_table_cpu(const BnShape& shape, const BnRows& z, const BnTable& table, const BnRows& y, int threads) {
    const Status status = check(shape, {table.center, table.scale, table.shift, table.active}, {z, y});
    if (status.code != kOk) return status;
    return (shape.dtype == Dtype::kFloat32 ? apply_table<float> : apply_table<BFloat16>)(shape, z, table, y, threads);
}

Status bn_silu_backward_reduce_cpu(const BnShape& shape, const BnRows* grads, int grad_count, const BnMap* maps, int count,
                                   bool activation, const BnRows& out, double* sums, int threads) {
    Status status = check(shape, {sums}, {out});
    if (status.code == kOk) status = check_maps(shape, maps, count);
    if (status.code == kOk && (grad_count < 1 || grad_count > kBnGrads))
        status = bad_argument("one, two or three gradients are added");
    for (int s = 0; status.code == kOk && s < grad_count; ++s) status = check(shape, {}, {grads[s]});
    if (status.code != kOk) return status;
    const auto run = shape.dtype == Dtype::kFloat32 ? backward_reduce<float> : backward_reduce<BFloat16>;
    return run(shape, grads, grad_count, maps, count, activation, out, sums, threads);
}

Status bn_silu_backward_apply_cpu(const BnShape& shape, const BnRows& grad, const BnMap* maps, int count, const double* sums,
                                  double total, const BnRows* out, int threads) {
    Status status = check(shape, {}, {grad});
    if (status.code == kOk) status = check_maps(shape, maps, count);
    for (int m = 0; status.code == kOk && m < count; ++m) status = check(shape, {}, {out[m]});
    if (status.code == kOk && sums && !(total >= 1.0)) status = bad_argument("the sums are of no rows");
    if (status.code != kOk) return status;
    const auto run = shape.dtype == Dtype::kFloat32 ? backward_apply<float> : backward_apply<BFloat16>;
    return run(shape, grad, maps, count, sums, total, out, threads);
}

}  // namespace yk
