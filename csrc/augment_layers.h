// The layers of augment where they lie in memory.
#pragma once

#include <vector>

#include "augment.h"

namespace yk {

// Opaque columns of a row of a mask: between begin and end, and whether all of these are.
struct Opaque {
    int begin, end;
    bool solid;
};

// A layer where it lies in memory.
struct PlacedImage {
    const std::uint8_t *image, *end;  // end: of what may be read
    const std::uint8_t* mask;         // null: opaque everywhere
    const Opaque* opaque;             // of each row of the mask
    std::int64_t height, width, left, top, stride, mask_stride;
};

struct PlacedImages {
    std::vector<PlacedImage> each;
    std::vector<Opaque> opaque;
};

// bad_argument where an argument is wrong or a layer lies beyond what is there.
Status place_layers(const AugmentInput& in, const AugmentOutput& out, PlacedImages& all_placed);

}  // namespace yk
