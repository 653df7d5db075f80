#pragma once
#include <cstdint>
#include <vector>

namespace salcr {

// Sets of indices, one a row of `width` entries: ascending, without duplicates, -1 behind the last.
struct IndexSets {
  const std::int64_t* entries;
  std::int64_t width;
};

// What is in all operands, row by row, in the same format; out [rows, width] with the narrowest operand's width.
void intersect_sets(const std::vector<IndexSets>& sets, std::int64_t rows, std::int64_t width, std::int64_t* out,
                    int threads);

// What is in any operand; out [rows, width] with the width of all operands together.
void unite_sets(const std::vector<IndexSets>& sets, std::int64_t rows, std::int64_t width, std::int64_t* out,
                int threads);

}  // namespace salcr
