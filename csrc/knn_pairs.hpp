#pragma once
#include <cstdint>

namespace salcr {

struct FloatRows {
  const float* data;
  std::int64_t count;
};

// The k largest inner products of each row with the columns, which are all of unit length or shorter, in descending order, equal
// ones by index. own: the columns are the rows, and a row is not compared with itself. With a `split` above 0 rows before it are
// compared with those from it on and the other way round; each side has at least k.
//
// With `floors`, one for each row, products below a row's floor are not wanted: lists may be short (see TopK::write).
//
// scores and indices are [rows.count, k], `stride` apart from row to row. False: a trial with some rows had to make more than
// `limit` products of a row in float32, and scores and indices say nothing. The processor has to screen in bytes.
bool nearest_pairs(FloatRows rows, FloatRows columns, std::int64_t width, std::int64_t k, bool own, std::int64_t split,
                   const float* floors, double limit, float* scores, std::int64_t* indices, std::int64_t stride, int threads);

}  // namespace salcr
