#pragma once
#include <cstdint>

namespace salcr {

// Columns of a row of draws; salcr.reference.augmentation says what they mean.
struct Draws {
  float top, left, mirrored, adjustments[4], brightness, contrast, saturation, turn;
  float erased_top, erased_bottom, erased_left, erased_right, channels, scaling;
};
static_assert(sizeof(Draws) == 17 * sizeof(float));

// A link of a chain of local linear scalings.
struct Scaling {
  float top, bottom, left, right, beta[3];
};
static_assert(sizeof(Scaling) == 7 * sizeof(float));

// Views [views, height, width, 3] of images [images, height, width, 3]; what is null is not asked for. The caller has checked
// that rows < images, that adjustments, channels and scaling are whole numbers in their ranges, and that all draws are finite.
struct Augmentation {
  const std::uint8_t* images;
  std::int64_t height, width, views, chain;  // chain: scalings in a row of `scalings`
  const Draws* draws;                        // [views]; null: only normalised
  const std::int64_t* rows;                  // [views]; null: view b shows image b
  const Scaling* scalings;                   // [.., chain]
  int threads;
};

// Real: float, or std::uint16_t for the bits of bfloat16.
template <typename Real>
void augment(const Augmentation& augmentation, Real* out);

}  // namespace salcr
