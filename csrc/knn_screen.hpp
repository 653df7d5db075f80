#pragma once
#include <cstdint>
#include <memory>

#include "knn_rows.hpp"

namespace salcr {

constexpr std::int64_t kPanel = 32;  // queries that rows are compared with at a time
constexpr std::int64_t kStrip = 12;  // rows that are compared at a time

constexpr float kRounding = 1.0001f;  // for the float32 arithmetic around a rounding to bytes
constexpr float kSlack = 1e-5f;       // and for that of a cosine itself, of a norm, and of a bound
constexpr float kSmallest = 1e-30f;   // a row whose largest entry is smaller is not rounded

// Upper bounds of the cosines of a strip of rows with a panel of queries, of unit length or zero, by approximate products of
// which it is known how far they are off (docs/numerics.md, "Neighbours in bytes").
template <typename Stored>
class Screener {
 public:
  virtual ~Screener() = default;

  // Bytes that a strip of rows takes once it is prepared.
  virtual std::int64_t strip_bytes() const = 0;

  // A row in float32, at `memory` [width] where it is stored otherwise.
  virtual const float* to_floats(const Stored* row, float* memory) const = 0;

  // Writes the strip of `rows` from row `first` on to `prepared`; false: one of them has NaN or Inf.
  virtual bool prepare(const StoredRows<Stored>& rows, std::int64_t first, void* prepared) const = 0;

  // Writes bounds [kStrip][kPanel] of a strip's products with the panel's queries; `ahead` points to the strip that is read next
  // from memory, or is null.
  virtual void bound(const void* prepared, std::int64_t panel, const Stored* ahead, float* bounds) const = 0;

  // By how much such a bound may be above the product, at most.
  virtual float slack(const void* prepared, std::int64_t row, std::int64_t query) const = 0;
};

// Whether the lengths of rows count: products of rows with many queries are bounded, or cosines of rows that are read once.
enum class Lengths { kCount, kDivided };

// Whether the processor multiplies bytes, and their sums fit.
bool can_screen_in_bytes(std::int64_t width);

template <typename Stored>
std::unique_ptr<Screener<Stored>> screen_in_bytes(const float* queries, std::int64_t count,
                                                  std::int64_t width, Lengths lengths, int threads);

template <typename Stored>
std::unique_ptr<Screener<Stored>> screen_in_floats(const float* queries, std::int64_t count,
                                                   std::int64_t width);

}  // namespace salcr
