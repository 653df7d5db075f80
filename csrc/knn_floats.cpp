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
SALCR_FOR_EACH_ISA void bound_strip(const float* strip, const float* queries, std::int64_t width, float error,
                                    float* bounds) {
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
      for (std::int64_t r = 0; r < kTogether; ++r)
        for (std::int64_t n = 0; n < kAside; ++n) {
          const Lanes bound = sums[r][n] + error;
          __builtin_memcpy(bounds + (top + r) * kPanel + side + n * kLanes, &bound, sizeof bound);
        }
    }
}

template <typename Stored>
class FloatScreener final : public Screener<Stored> {
 public:
  FloatScreener(const float* queries, std::int64_t count, std::int64_t width)
      : width_(width), panels_((count + kPanel - 1) / kPanel * kPanel * width) {
    for (std::int64_t q = 0; q < count; ++q)
      for (std::int64_t d = 0; d < width; ++d)
        panels_[(q / kPanel * width + d) * kPanel + q % kPanel] = queries[q * width + d];
  }

  std::int64_t strip_bytes() const override { return kStrip * width_ * static_cast<std::int64_t>(sizeof(float)); }

  const float* to_floats(const Stored* row, float* memory) const override {
    if constexpr (std::is_same_v<Stored, float>) return row;
    for (std::int64_t d = 0; d < width_; ++d) memory[d] = to_float(row[d]);
    return memory;
  }

  bool prepare(const StoredRows<Stored>& rows, std::int64_t first, void* prepared) const override {
    return convert_strip(rows, first, static_cast<float*>(prepared));
  }

  void bound(const void* prepared, std::int64_t panel, const Stored*, float* bounds) const override {
    bound_strip(static_cast<const float*>(prepared), panels_.data() + panel * width_ * kPanel, width_, error(), bounds);
  }

  float slack(const void*, std::int64_t, std::int64_t) const override { return 2 * error(); }

 private:
  float error() const { return static_cast<float>(width_ + 2) * 0x1p-23f + kSlack; }  // of sums of as many roundings

  std::int64_t width_;
  std::vector<float> panels_;
};

}  // namespace

template <typename Stored>
std::unique_ptr<Screener<Stored>> screen_in_floats(const float* queries, std::int64_t count,
                                                   std::int64_t width) {
  return std::make_unique<FloatScreener<Stored>>(queries, count, width);
}

template std::unique_ptr<Screener<float>> screen_in_floats(const float*, std::int64_t, std::int64_t);
template std::unique_ptr<Screener<std::uint16_t>> screen_in_floats(const float*, std::int64_t, std::int64_t);

}  // namespace salcr
