#pragma once
#include <cstdint>

namespace salcr {

struct FloatRows {
  const float* data;
  std::int64_t count;
};

// Of the largest inner products of each row with the columns, all of unit length or shorter, the first k in descending order,
// equal ones by index; own: columns are the rows, and a row does not see itself. With a `split` above 0 rows before it see those
// from it on, and these see the ones before: each side has at least k.
//
// With `floors`, one a row, products below a row's are not wanted: lists may be short (see TopK::write).
//
// scores and indices are [rows.count, k] at a distance of `stride` between rows. False: more than `limit` of a row's products
// would have to be made in float32, judged by some rows, and scores and indices say nothing. The processor can screen in bytes.
bool nearest_pairs(FloatRows rows, FloatRows columns, std::int64_t width, std::int64_t k, bool own, std::int64_t split,
                   const float* floors, double limit, float* scores, std::int64_t* indices, std::int64_t stride, int threads);

}  // namespace salcr
