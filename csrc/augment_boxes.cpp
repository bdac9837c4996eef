// The host backend of augment_boxes: an image a task, an outline at a time, its points as a stream.
#include <atomic>

#include "augment_boxes.cuh"
#include "threads.h"

namespace yk {

namespace {

// Writes the row of object n, unless it does not survive.
bool write_object(const AugmentBoxesInput& in, std::int64_t n, const float* matrix, float* row) {
    const float width = static_cast<float>(in.width), height = static_cast<float>(in.height);
    Hull whole;
    Clipper<Hull> clipper(width, height);
    bool finite = true;
    for (std::int64_t i = n ? in.ends[n - 1] : 0; i < in.ends[n]; ++i) {
        const Point p = project(matrix, {in.points[2 * i], in.points[2 * i + 1]});
        finite = finite && is_finite(p.x) && is_finite(p.y);
        whole.add(p);
        clipper.add<0>(p);
    }
    clipper.close();
    const Box& box = clipper.rest.box;
    if (!finite || !survives(whole.box, box, in.min_area_ratio[n])) return false;
    row[0] = static_cast<float>(in.classes[n]);
    row[1] = (box.x1 + box.x2) / 2.0f / width;
    row[2] = (box.y1 + box.y2) / 2.0f / height;
    row[3] = (box.x2 - box.x1) / width;
    row[4] = (box.y2 - box.y1) / height;
    return true;
}

// The number of boxes of an image, of which no more than capacity are written.
std::int64_t make_boxes(const AugmentBoxesInput& in, std::int64_t image, float* rows) {
    std::int64_t kept = 0;
    float spare[5];
    for (std::int64_t view = 2 * image; view < 2 * image + 2; ++view)
        for (std::int64_t n = in.ranges[2 * view]; n < in.ranges[2 * view + 1]; ++n)
            kept += write_object(in, n, in.matrices + 9 * view, kept < in.capacity ? rows + 5 * kept : spare);
    return kept;
}

// The points that are left of outlines, one after another, as far as there is room, and their hull.
struct Outline {
    float* points;
    std::int64_t room, count;
    Hull hull;

    void add(Point p) {
        hull.add(p);
        if (count < room) points[2 * count] = p.x, points[2 * count + 1] = p.y;
        ++count;
    }
};

}  // namespace

Status check_augment_boxes(const AugmentBoxesInput& in, const AugmentBoxesOutput& out) {
    if (in.point_count < 0 || in.objects < 0 || in.images < 0 || in.capacity < 0 || in.height < 1 || in.width < 1)
        return bad_argument("a length is negative");
    if (in.images && (!in.ranges || !in.matrices || !out.counts || (in.capacity && !out.boxes)))
        return bad_argument("an address is null");
    if (in.objects && (!in.ends || !in.classes || !in.min_area_ratio || (in.point_count && !in.points)))
        return bad_argument("the address of the objects is null");
    for (std::int64_t n = 0, last = 0; n < in.objects; last = in.ends[n++])
        if (in.ends[n] < last || in.ends[n] > in.point_count)
            return bad_argument("ends must be rising, from 0 to at most the number of points");
    for (std::int64_t i = 0; i < 4 * in.images; i += 2)
        if (in.ranges[i] < 0 || in.ranges[i] > in.ranges[i + 1] || in.ranges[i + 1] > in.objects)
            return bad_argument("ranges must be rising, from 0 to at most the number of objects");
    return ok();
}

Status augment_boxes_cpu(const AugmentBoxesInput& in, const AugmentBoxesOutput& out, int threads) {
    const Status status = check_augment_boxes(in, out);
    if (status.code != kOk) return status;
    std::atomic<bool> outgrown{false};
    const Status done = parallel_for(in.images, threads, [&](std::int64_t image) {
        out.counts[image] = make_boxes(in, image, out.boxes + 5 * in.capacity * image);
        if (out.counts[image] > in.capacity) outgrown = true;
    });
    return outgrown ? bad_argument("capacity is less than the boxes of a sample") : done;
}

Status clip_outlines(const ClipInput& in, const ClipOutput& out) {
    if (in.point_count < 0 || in.objects < 0 || in.room < 0) return bad_argument("a length is negative");
    if ((in.point_count && !in.points) || (in.room && !out.points) ||
        (in.objects && (!in.lengths || !out.lengths || !out.boxes)))
        return bad_argument("an address is null");
    std::int64_t begin = 0, written = 0;
    for (std::int64_t n = 0; n < in.objects; ++n) {
        if (in.lengths[n] < 0 || in.lengths[n] > in.point_count - begin)
            return bad_argument("lengths must not be negative, together at most the number of points");
        const std::int64_t left = written < in.room ? in.room - written : 0;
        Clipper<Outline> clipper(in.width, in.height, {left ? out.points + 2 * written : nullptr, left, 0, {}});
        for (const std::int64_t end = begin + in.lengths[n]; begin < end; ++begin)
            clipper.add<0>({in.points[2 * begin], in.points[2 * begin + 1]});
        clipper.close();
        const Box& box = clipper.rest.hull.box;
        out.boxes[4 * n] = box.x1, out.boxes[4 * n + 1] = box.y1, out.boxes[4 * n + 2] = box.x2, out.boxes[4 * n + 3] = box.y2;
        written += out.lengths[n] = clipper.rest.count;
    }
    return ok();
}

}  // namespace yk
