// Rows converted to float32, a strip at a time, and multiplied with all queries while they are in the first-level cache.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "each_isa.hpp"
#include "half.hpp"
#include "knn_screen.hpp"
#include "rows.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kLanes = 8, kTogether = 6, kAside = 2;  // rows and registers of queries whose sums are in registers
constexpr float kSlack = 1e-5f;

typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

template <typename Stored>
SALCR_FOR_EACH_ISA bool convert_strip(const StoredRows<Stored>& rows, std::int64_t first, float* strip) {
  bool finite = true;
  for (std::int64_t r = 0; r < kStrip; ++r) {
    float* const out = strip + r * rows.width;
    if (first + r >= rows.count) {
      std::fill_n(out, rows.width, 0.0f);
      continue;
    }
    const Stored* const row = rows.data + (first + r) * rows.stride;
    int infinite = 0;
#pragma omp simd reduction(| : infinite)
    for (std::int64_t d = 0; d < rows.width; ++d) {
      infinite |= !is_finite(row[d]);
      out[d] = to_float(row[d]);
    }
    finite &= !infinite;
    const float inverse = static_cast<float>(inverse_norm(dot(out, out, rows.width)));
#pragma omp simd
    for (std::int64_t d = 0; d < rows.width; ++d) out[d] *= inverse;
  }
  return finite;
}

// queries [width][kPanel]
SALCR_FOR_EACH_ISA void compare_strip(const float* strip, const float* queries, std::int64_t width, float error,
                                      const float* thresholds, std::uint32_t* above) {
  std::fill_n(above, kStrip, 0);
  for (std::int64_t top = 0; top < kStrip; top += kTogether)
    for (std::int64_t side = 0; side < kPanel; side += kAside * kLanes) {
      Lanes sums[kTogether][kAside] = {};
      for (std::int64_t d = 0; d < width; ++d) {
        Lanes query[kAside];
        __builtin_memcpy(query, queries + d * kPanel + side, sizeof query);
#pragma GCC unroll 6
        for (int r = 0; r < kTogether; ++r) {
          const float entry = strip[(top + r) * width + d];
#pragma GCC unroll 2
          for (int n = 0; n < kAside; ++n) sums[r][n] += query[n] * entry;
        }
      }
      float bounds[kTogether][kAside * kLanes];
      __builtin_memcpy(bounds, sums, sizeof bounds);
      for (int r = 0; r < kTogether; ++r)
        for (int n = 0; n < kAside * kLanes; ++n)
          above[top + r] |= static_cast<std::uint32_t>(bounds[r][n] + error > thresholds[side + n]) << (side + n);
    }
}

template <typename Stored>
class FloatScreener final : public Screener<Stored> {
 public:
  FloatScreener(const float* queries, std::int64_t count, const StoredRows<Stored>& rows)
      : rows_(rows), panels_((count + kPanel - 1) / kPanel * kPanel * rows.width) {
    for (std::int64_t q = 0; q < count; ++q)
      for (std::int64_t d = 0; d < rows.width; ++d)
        panels_[(q / kPanel * rows.width + d) * kPanel + q % kPanel] = queries[q * rows.width + d];
  }

  std::int64_t strip_bytes() const override { return kStrip * rows_.width * static_cast<std::int64_t>(sizeof(float)); }

  const float* to_floats(const Stored* row, float* memory) const override {
    if constexpr (std::is_same_v<Stored, float>) return row;
    for (std::int64_t d = 0; d < rows_.width; ++d) memory[d] = to_float(row[d]);
    return memory;
  }

  bool prepare(std::int64_t first, void* prepared) const override {
    return convert_strip(rows_, first, static_cast<float*>(prepared));
  }

  void compare(const void* prepared, std::int64_t panel, const float* thresholds, const Stored*,
               std::uint32_t* above) const override {
    const float error = static_cast<float>(rows_.width + 2) * 0x1p-23f + kSlack;  // of sums of as many roundings
    compare_strip(static_cast<const float*>(prepared), panels_.data() + panel * rows_.width * kPanel, rows_.width, error,
                  thresholds, above);
  }

 private:
  StoredRows<Stored> rows_;
  std::vector<float> panels_;
};

}  // namespace

template <typename Stored>
std::unique_ptr<Screener<Stored>> screen_in_floats(const float* queries, std::int64_t count,
                                                   const StoredRows<Stored>& rows) {
  return std::make_unique<FloatScreener<Stored>>(queries, count, rows);
}

template std::unique_ptr<Screener<float>> screen_in_floats(const float*, std::int64_t, const StoredRows<float>&);
template std::unique_ptr<Screener<std::uint16_t>> screen_in_floats(const float*, std::int64_t,
                                                                   const StoredRows<std::uint16_t>&);

}  // namespace salcr
