// A strip of rows passes through the first-level cache once for every 32 queries, whose codes stay in the second. By VNNI an
// instruction takes four codes of a row with those of 16 queries, and 12 rows by 32 queries are as many sums as registers hold;
// elsewhere codes are widened to 16 bits, of which any x86-64 adds pairs of products.

#include "knn_code_products.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "each_isa.hpp"
#include "extrema.hpp"
#include "knn_vnni.hpp"
#include "parallel.hpp"
#include "rows.hpp"

namespace salcr {
namespace {

constexpr int kTogether = 4;  // rows whose sums with a query are in registers

#ifdef SALCR_HAS_BYTES
SALCR_VNNI_INLINE void multiply_row(__m512i& low, __m512i& high, __m512i low_queries, __m512i high_queries,
                                    const std::uint8_t* row) {
  const __m512i entries = broadcast_four(row);
  add_products(low, entries, low_queries);
  add_products(high, entries, high_queries);
}

SALCR_VNNI_INLINE void write_row(__m512i low, __m512i high, const std::int32_t* shift, std::int32_t* products) {
  _mm512_storeu_si512(products, _mm512_sub_epi32(low, _mm512_loadu_si512(shift)));
  _mm512_storeu_si512(products + 16, _mm512_sub_epi32(high, _mm512_loadu_si512(shift + 16)));
}

// A pack of row numbers instead of a loop: so that all sums are registers.
template <bool kAhead, std::size_t... kRow>
SALCR_VNNI void multiply_strip(const std::uint8_t* strip, std::int64_t stride, const std::int8_t* queries,
                               std::int64_t length, const std::int32_t* shift, const std::uint8_t* ahead,
                               std::int32_t* products, std::index_sequence<kRow...>) {
  __m512i low[] = {((void)kRow, _mm512_setzero_si512())...};
  __m512i high[] = {((void)kRow, _mm512_setzero_si512())...};
  for (std::int64_t d = 0; d < length; d += 4) {
    const __m512i low_queries = _mm512_load_si512(queries), high_queries = _mm512_load_si512(queries + 64);
    if constexpr (kAhead) _mm_prefetch(reinterpret_cast<const char*>(ahead) + d * kStrip, _MM_HINT_T0);
    (multiply_row(low[kRow], high[kRow], low_queries, high_queries, strip + kRow * stride + d), ...);
    queries += 4 * kPanel;
  }
  (write_row(low[kRow], high[kRow], shift, products + kRow * kPanel), ...);
}
#endif

SALCR_FOR_EACH_ISA void widen(const std::uint8_t* strip, std::int64_t stride, std::int64_t length, std::int16_t* out) {
  for (std::int64_t r = 0; r < kStrip; ++r)
#pragma omp simd
    for (std::int64_t d = 0; d < length; ++d)
      out[r * length + d] = static_cast<std::int16_t>(strip[r * stride + d] - 128);
}

SALCR_FOR_EACH_ISA void multiply_shorts(const std::int16_t* rows, const std::int16_t* queries, std::int64_t length,
                                        std::int32_t* products) {
  for (std::int64_t top = 0; top < kStrip; top += kTogether) {
    const std::int16_t *const a = rows + top * length, *const b = a + length, *const c = b + length, *const e = c + length;
    for (std::int64_t q = 0; q < kPanel; ++q) {
      const std::int16_t* const query = queries + q * length;
      std::int32_t of_a = 0, of_b = 0, of_c = 0, of_e = 0;
      for (std::int64_t d = 0; d < length; ++d) {
        of_a += a[d] * query[d];
        of_b += b[d] * query[d];
        of_c += c[d] * query[d];
        of_e += e[d] * query[d];
      }
      std::int32_t* const out = products + top * kPanel + q;
      out[0] = of_a, out[kPanel] = of_b, out[2 * kPanel] = of_c, out[3 * kPanel] = of_e;
    }
  }
}

}  // namespace

SALCR_FOR_EACH_ISA RoundedRow round_row(const float* row, std::int64_t width, std::int8_t* codes) {
  float most = 0;
#pragma omp simd reduction(max : most)
  for (std::int64_t d = 0; d < width; ++d) most = larger(most, std::abs(row[d]));
  const float scale = most < kSmallest ? 0.0f : 127 / most, unit = most / 127;
#pragma omp simd
  for (std::int64_t d = 0; d < width; ++d) {
    const float value = row[d] * scale;
    codes[d] = static_cast<std::int8_t>(static_cast<std::int32_t>(value + (value < 0 ? -0.5f : 0.5f)));
  }
  double squares = 0, lost = 0;
#pragma omp simd reduction(+ : squares, lost)
  for (std::int64_t d = 0; d < width; ++d) {
    const double value = row[d], left = value - static_cast<double>(unit) * codes[d];
    squares += value * value;
    lost += left * left;
  }
  return {unit, std::sqrt(squares), static_cast<float>(std::sqrt(lost)) * kRounding};
}

CodedQueries::CodedQueries(const float* queries, std::int64_t count, std::int64_t width, bool vnni, int threads)
    : length_(code_length(width)),
      stride_(code_bytes(width)),
      vnni_(vnni),
      panels_((count + kPanel - 1) / kPanel),
      bytes_(vnni ? panels() * kPanel * length_ + 64 : 0),
      shorts_(vnni ? 0 : panels() * kPanel * length_) {
  if (vnni) aligned_ = bytes_.data() + (64 - reinterpret_cast<std::uintptr_t>(bytes_.data()) % 64) % 64;
  parallel_chunks(panels(), 1, threads, [&](std::int64_t at, std::int64_t, int) {
    std::vector<std::int8_t> codes(length_);
    Panel& panel = panels_[at];
    panel = {};
    for (std::int64_t q = at * kPanel; q < std::min(count, (at + 1) * kPanel); ++q) {
      const std::int64_t lane = q % kPanel;
      const RoundedRow rounded = round_row(queries + q * width, width, codes.data());
      panel.unit[lane] = rounded.unit;
      panel.error[lane] = rounded.lost + kSlack;
      panel.grows[lane] = static_cast<float>(rounded.norm) * kRounding + panel.error[lane];
      for (std::int64_t d = 0; d < length_; ++d) {
        panel.shift[lane] += 128 * codes[d];
        if (vnni)
          aligned_[((at * length_ + d / 4 * 4) * kPanel) + lane * 4 + d % 4] = codes[d];
        else
          shorts_[(at * kPanel + lane) * length_ + d] = codes[d];
      }
    }
  });
}

void CodedQueries::multiply(const std::uint8_t* strip, std::int64_t panel, const std::uint8_t* ahead, bool fresh,
                            std::int16_t* memory, std::int32_t* products) const {
#ifdef SALCR_HAS_BYTES
  if (vnni_) {
    const std::int8_t* const queries = aligned_ + panel * kPanel * length_;
    const std::int32_t* const shift = panels_[panel].shift;
    const auto rows = std::make_index_sequence<kStrip>();
    if (ahead == nullptr)
      multiply_strip<false>(strip, stride_, queries, length_, shift, ahead, products, rows);
    else
      multiply_strip<true>(strip, stride_, queries, length_, shift, ahead, products, rows);
    return;
  }
#endif
  (void)ahead;
  if (fresh) widen(strip, stride_, length_, memory);
  multiply_shorts(memory, shorts_.data() + panel * kPanel * length_, length_, products);
}

}  // namespace salcr
