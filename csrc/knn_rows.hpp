#pragma once
#include <cstdint>

namespace salcr {

// Rows of a matrix as they are stored: float, or std::uint16_t for the bits of a float16.
template <typename Stored>
struct StoredRows {
  const Stored* data;
  std::int64_t count, width, stride;  // stride: elements from one row to the next
};

// How rows are looked at before they are scored: by products of bytes where the processor has them, else in float32.
enum class Screen { kFastest, kBytes, kFloats };

bool can_screen(Screen screen, std::int64_t width);

// The k rows of largest cosine with each query, in descending order, equal ones by index.
//
// queries [count, width] are unit rows or rows of zeros, scores and indices are [count, k] with k <= rows.count. Of rows with NaN
// or Inf returns the first, in which case scores and indices say nothing; else -1.
template <typename Stored>
std::int64_t nearest_rows(const float* queries, std::int64_t count, const StoredRows<Stored>& rows, std::int64_t k,
                          float* scores, std::int64_t* indices, Screen screen, int threads);

}  // namespace salcr
