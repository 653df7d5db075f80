#pragma once
#include <cstdint>
#include <memory>

#include "knn_rows.hpp"

namespace salcr {

constexpr std::int64_t kPanel = 32;  // queries that rows are compared with at a time
constexpr std::int64_t kStrip = 12;  // rows that are compared at a time

// Upper bounds of the cosines of a strip of rows with a panel of queries, by approximate products of which it is known how
// far they are off (docs/numerics.md, "Neighbours in bytes").
template <typename Stored>
class Screener {
 public:
  virtual ~Screener() = default;

  // Bytes that a strip of rows takes once it is prepared.
  virtual std::int64_t strip_bytes() const = 0;

  // A row in float32, at `memory` [width] where it is stored otherwise.
  virtual const float* to_floats(const Stored* row, float* memory) const = 0;

  // Writes the strip of rows from `first` on to `prepared`; false: one of them has NaN or Inf.
  virtual bool prepare(std::int64_t first, void* prepared) const = 0;

  // Writes, for each of kStrip rows, a mask of the panel's queries whose bound is above their threshold [kPanel]; `ahead` is
  // memory of which a strip is needed next, or null.
  virtual void compare(const void* prepared, std::int64_t panel, const float* thresholds, const Stored* ahead,
                       std::uint32_t* above) const = 0;
};

// Whether the processor multiplies bytes, and their sums fit.
bool can_screen_in_bytes(std::int64_t width);

template <typename Stored>
std::unique_ptr<Screener<Stored>> screen_in_bytes(const float* queries, std::int64_t count,
                                                  const StoredRows<Stored>& rows);

template <typename Stored>
std::unique_ptr<Screener<Stored>> screen_in_floats(const float* queries, std::int64_t count,
                                                   const StoredRows<Stored>& rows);

}  // namespace salcr
