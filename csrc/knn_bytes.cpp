// Rows and queries rounded to 8 bits, each in units of its largest entry over 127, and multiplied by VNNI: four products and their
// sum an instruction and lane, in integers, without an error of their own. A strip of rows is rounded when it is first read
// and stays in the first-level cache while all queries pass.
//
// Bytes of queries are shifted by 128, as the instruction takes unsigned times signed; what that adds to a product depends on
// the row alone. Both sides come out of the same instructions, so that their bytes lie in the same order within 64.

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "knn_screen.hpp"
#include "knn_vnni.hpp"
#include "parallel.hpp"
#include "rows.hpp"

namespace salcr {

#ifdef SALCR_HAS_BYTES
namespace {

constexpr std::int64_t kBytes = 64;  // of a register

std::int64_t padded(std::int64_t width) { return (width + kBytes - 1) / kBytes * kBytes; }

struct Rounded {
  float unit;        // what a byte counts
  float norm;        // of the row, before it was rounded
  float lost;        // the norm of what rounding took from it, or more
  std::int32_t sum;  // of its bytes
};

SALCR_VNNI_INLINE __m512 load(const float* x, __mmask16 some) { return _mm512_maskz_loadu_ps(some, x); }

SALCR_VNNI_INLINE __m512 load(const std::uint16_t* x, __mmask16 some) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(some, x));
}

// The first `left` of 16 lanes.
SALCR_VNNI_INLINE __mmask16 first_lanes(std::int64_t left) {
  return left >= 16 ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1);
}

// The largest magnitude of a row; infinite or NaN where the row is.
SALCR_VNNI_INLINE float largest(const float* x, std::int64_t width) {
  __m512i most = _mm512_setzero_si512();
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (std::int64_t d = 0; d < width; d += 16) {
    const __m512i bits = _mm512_maskz_loadu_epi32(first_lanes(width - d), x + d);
    most = _mm512_max_epi32(most, _mm512_and_si512(bits, magnitude));
  }
  return _mm512_cvtss_f32(_mm512_castsi512_ps(_mm512_set1_epi32(_mm512_reduce_max_epi32(most))));
}

SALCR_VNNI_INLINE float largest(const std::uint16_t* x, std::int64_t width) {
  __m512i most = _mm512_setzero_si512();
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  std::int64_t d = 0;
  for (; d + 32 <= width; d += 32) most = _mm512_max_epu16(most, _mm512_and_si512(_mm512_loadu_si512(x + d), magnitude));
  if (d < width) {
    const __m512i bits = _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1u << (width - d)) - 1), x + d);
    most = _mm512_max_epu16(most, _mm512_and_si512(bits, magnitude));
  }
  const __m512i low = _mm512_and_si512(most, _mm512_set1_epi32(0xffff)), high = _mm512_srli_epi32(most, 16);
  const int bits = _mm512_reduce_max_epi32(_mm512_max_epi32(low, high));
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
}

// 16 entries as whole numbers of the scale; their squares and, measured, those of what rounding takes join sums.
template <bool kMeasured, typename Stored>
SALCR_VNNI_INLINE __m512i round_some(const Stored* x, __mmask16 some, __m512 scale, __m512& squares, __m512& lost) {
  const __m512 value = load(x, some);
  squares = _mm512_fmadd_ps(value, value, squares);
  const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(value, scale));
  if constexpr (kMeasured) {
    const __m512 left = _mm512_fmsub_ps(value, scale, _mm512_cvtepi32_ps(whole));
    lost = _mm512_fmadd_ps(left, left, lost);
  }
  return whole;
}

// Rounds a row to bytes [padded(width)], given its largest magnitude. What it loses is measured where many queries are compared
// with the row, which is worth the time; else it is bounded by half a unit for each entry.
template <bool kMeasured, typename Stored>
SALCR_VNNI_INLINE Rounded round_row(const Stored* x, std::int64_t width, float most, std::int8_t* bytes) {
  const __m512 scale = _mm512_set1_ps(most < kSmallest ? 0.0f : 127 / most);
  const __m512i ones = _mm512_set1_epi8(1);
  __m512 even = _mm512_setzero_ps(), odd = even, lost_even = even, lost_odd = even;
  __m512i sums = _mm512_setzero_si512();
  for (std::int64_t d = 0; d < width; d += kBytes) {
    const std::int64_t left = width - d;
    const __m512i a = round_some<kMeasured>(x + d, first_lanes(left), scale, even, lost_even);
    const __m512i b = round_some<kMeasured>(x + d + 16, first_lanes(left - 16), scale, odd, lost_odd);
    const __m512i c = round_some<kMeasured>(x + d + 32, first_lanes(left - 32), scale, even, lost_even);
    const __m512i e = round_some<kMeasured>(x + d + 48, first_lanes(left - 48), scale, odd, lost_odd);
    const __m512i packed = _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, e));
    sums = _mm512_dpbusd_epi32(sums, ones, packed);
    _mm512_store_si512(bytes + d, packed);
  }
  const float unit = most / 127;
  const float squares_lost = kMeasured ? _mm512_reduce_add_ps(_mm512_add_ps(lost_even, lost_odd))
                                       : 0.25f * static_cast<float>(width);
  const float lost = std::sqrt(squares_lost) * unit * kRounding;
  return {unit, std::sqrt(_mm512_reduce_add_ps(_mm512_add_ps(even, odd))),
          most > 0 && most < kSmallest ? INFINITY : lost,  // nothing is known of such a row
          _mm512_reduce_add_epi32(sums)};
}

// Of one strip of rows: their bytes, and what turns a product of bytes into a bound.
struct Strip {
  alignas(64) float unit[kStrip];  // of a byte, over the row's norm where lengths are divided
  float error[kStrip];             // what rounding takes from the row, likewise
  std::int32_t shift[kStrip];      // what the shift of the queries' bytes adds
  std::int8_t* bytes() { return reinterpret_cast<std::int8_t*>(this + 1); }
  const std::int8_t* bytes() const { return reinterpret_cast<const std::int8_t*>(this + 1); }
};

template <typename Stored>
SALCR_VNNI bool prepare_strip(const StoredRows<Stored>& rows, std::int64_t first, Lengths lengths, Strip& strip) {
  const std::int64_t length = padded(rows.width);
  const float slack = kSlack + static_cast<float>(rows.width) * 0x1p-29f;  // a 32nd of a row's squares are in one sum
  bool finite = true;
  for (std::int64_t r = 0; r < kStrip; ++r) {
    std::int8_t* const bytes = strip.bytes() + r * length;
    if (first + r >= rows.count) {
      std::fill_n(bytes, length, std::int8_t{0});
      strip.unit[r] = strip.error[r] = 0;
      strip.shift[r] = 0;
      continue;
    }
    const Stored* const row = rows.data + (first + r) * rows.stride;
    const float most = largest(row, rows.width);
    finite &= most < INFINITY;
    const Rounded rounded = lengths == Lengths::kCount ? round_row<true>(row, rows.width, most, bytes)
                                                       : round_row<false>(row, rows.width, most, bytes);
    const float times = lengths == Lengths::kCount ? 1.0f : 1 / std::max(rounded.norm, static_cast<float>(kTiny));
    strip.unit[r] = rounded.unit * times;
    strip.error[r] = rounded.lost * times + slack;
    strip.shift[r] = 128 * rounded.sum;
  }
  return finite;
}

// Of one panel of queries: their bytes, [padded(width) / 4][kPanel][4], and what makes bounds.
struct Panel {
  alignas(64) float unit[kPanel];
  float error[kPanel];  // what rounding took from the query
  float grows[kPanel];  // its norm and that: times the row's error
  std::uint8_t* bytes() { return reinterpret_cast<std::uint8_t*>(this + 1); }
  const std::uint8_t* bytes() const { return reinterpret_cast<const std::uint8_t*>(this + 1); }
};

SALCR_VNNI void prepare_query(const float* query, std::int64_t width, std::int64_t lane, std::int8_t* bytes,
                              Panel& panel) {
  const std::int64_t length = padded(width);
  const Rounded rounded = round_row<true>(query, width, largest(query, width), bytes);
  std::uint8_t* const out = panel.bytes() + lane * 4;
  for (std::int64_t d = 0; d < length; d += 4) {
    std::uint32_t four;
    __builtin_memcpy(&four, bytes + d, 4);
    four ^= 0x80808080u;  // plus 128 each
    __builtin_memcpy(out + d * kPanel, &four, 4);
  }
  panel.unit[lane] = rounded.unit;
  panel.error[lane] = rounded.lost + kSlack;
  panel.grows[lane] = rounded.norm * kRounding + panel.error[lane];
}

SALCR_VNNI_INLINE void multiply(__m512i& low, __m512i& high, __m512i low_queries, __m512i high_queries,
                                const std::int8_t* row) {
  const __m512i entries = broadcast_four(row);
  add_products(low, low_queries, entries);
  add_products(high, high_queries, entries);
}

SALCR_VNNI_INLINE void write_bounds(__m512i products, const Strip& strip, std::size_t row, const Panel& panel, int side,
                                    float* bounds) {
  const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(products, _mm512_set1_epi32(strip.shift[row])));
  const __m512 most_off = _mm512_fmadd_ps(_mm512_set1_ps(strip.error[row]), _mm512_load_ps(panel.grows + 16 * side),
                                          _mm512_load_ps(panel.error + 16 * side));
  const __m512 unit = _mm512_load_ps(panel.unit + 16 * side);
  const __m512 bound = _mm512_fmadd_ps(_mm512_mul_ps(exact, _mm512_set1_ps(strip.unit[row])), unit, most_off);
  _mm512_storeu_ps(bounds + static_cast<std::int64_t>(row) * kPanel + 16 * side, bound);
}

// A pack of row numbers instead of a loop: so that all sums are registers.
template <std::int64_t kAhead, std::size_t... kRow>
SALCR_VNNI void bound_strip(const Strip& strip, const Panel& panel, std::int64_t length, const char* ahead, float* bounds,
                            std::index_sequence<kRow...>) {
  const std::int8_t* const rows = strip.bytes();
  const std::uint8_t* queries = panel.bytes();
  __m512i low[] = {((void)kRow, _mm512_setzero_si512())...};
  __m512i high[] = {((void)kRow, _mm512_setzero_si512())...};
  for (std::int64_t d = 0; d < length; d += 4) {
    const __m512i low_queries = _mm512_load_si512(queries), high_queries = _mm512_load_si512(queries + 64);
    for (std::int64_t line = 0; line < kAhead; line += 64) _mm_prefetch(ahead + line, _MM_HINT_T1);
    (multiply(low[kRow], high[kRow], low_queries, high_queries, rows + kRow * length + d), ...);
    queries += 128;
    ahead += kAhead;
  }
  ((write_bounds(low[kRow], strip, kRow, panel, 0, bounds), write_bounds(high[kRow], strip, kRow, panel, 1, bounds)), ...);
}

SALCR_VNNI void convert(const std::uint16_t* x, std::int64_t width, float* out) {
  for (std::int64_t d = 0; d < width; d += 16) {
    const __mmask16 some = first_lanes(width - d);
    _mm512_mask_storeu_ps(out + d, some, load(x + d, some));
  }
}

template <typename Stored>
class ByteScreener final : public Screener<Stored> {
 public:
  ByteScreener(const float* queries, std::int64_t count, std::int64_t width, Lengths lengths, int threads)
      : width_(width), lengths_(lengths), length_(padded(width)), stride_(sizeof(Panel) + kPanel * length_) {
    const std::int64_t panels = (count + kPanel - 1) / kPanel;
    panels_.reset(static_cast<char*>(::operator new(panels * stride_, std::align_val_t{64})));
    parallel_chunks(panels, 1, threads, [&](std::int64_t at, std::int64_t, int) {
      std::fill_n(panels_.get() + at * stride_, stride_, char{0});
      std::unique_ptr<char[], Aligned> bytes(static_cast<char*>(::operator new(length_, std::align_val_t{64})));
      for (std::int64_t q = at * kPanel; q < std::min(count, (at + 1) * kPanel); ++q)
        prepare_query(queries + q * width, width, q % kPanel, reinterpret_cast<std::int8_t*>(bytes.get()), panel(at));
    });
  }

  std::int64_t strip_bytes() const override { return sizeof(Strip) + kStrip * length_; }

  const float* to_floats(const Stored* row, float* memory) const override {
    if constexpr (std::is_same_v<Stored, float>) {
      return row;
    } else {
      convert(row, width_, memory);
      return memory;
    }
  }

  bool prepare(const StoredRows<Stored>& rows, std::int64_t first, void* prepared) const override {
    return prepare_strip(rows, first, lengths_, *static_cast<Strip*>(prepared));
  }

  void bound(const void* prepared, std::int64_t at, const Stored* ahead, float* bounds) const override {
    const Strip& strip = *static_cast<const Strip*>(prepared);
    const char* const next = reinterpret_cast<const char*>(ahead);
    const auto rows = std::make_index_sequence<kStrip>();
    if (ahead == nullptr)
      bound_strip<0>(strip, panel(at), length_, next, bounds, rows);
    else
      bound_strip<kStrip * 4 * sizeof(Stored)>(strip, panel(at), length_, next, bounds, rows);
  }

  float slack(const void* prepared, std::int64_t row, std::int64_t query) const override {
    const Panel& its = panel(query / kPanel);
    const float error = static_cast<const Strip*>(prepared)->error[row];
    return 2 * (error * its.grows[query % kPanel] + its.error[query % kPanel]);
  }

 private:
  struct Aligned {
    void operator()(char* memory) const { ::operator delete(memory, std::align_val_t{64}); }
  };

  Panel& panel(std::int64_t at) const { return *reinterpret_cast<Panel*>(panels_.get() + at * stride_); }

  std::int64_t width_;
  Lengths lengths_;
  std::int64_t length_, stride_;
  std::unique_ptr<char[], Aligned> panels_;
};

}  // namespace
#endif

bool can_screen_in_bytes(std::int64_t width) {
#ifdef SALCR_HAS_BYTES
  // A sum of products of bytes has to fit 32 bits.
  return width <= 65536 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
#else
  return width < 0;
#endif
}

template <typename Stored>
std::unique_ptr<Screener<Stored>> screen_in_bytes(const float* queries, std::int64_t count,
                                                  std::int64_t width, Lengths lengths, int threads) {
#ifdef SALCR_HAS_BYTES
  return std::make_unique<ByteScreener<Stored>>(queries, count, width, lengths, threads);
#else
  (void)queries, (void)count, (void)width, (void)lengths, (void)threads;
  return nullptr;
#endif
}

template std::unique_ptr<Screener<float>> screen_in_bytes(const float*, std::int64_t, std::int64_t, Lengths, int);
template std::unique_ptr<Screener<std::uint16_t>> screen_in_bytes(const float*, std::int64_t, std::int64_t, Lengths, int);

}  // namespace salcr
