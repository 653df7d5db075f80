// A search that reads each stored row once. Strips of rows are compared with panels of queries by bounds from above of their
// cosines; what a bound does not leave out is scored in float32, from a row that is still in the cache. So the result is that of
// scoring everything, to the bit, whatever screens and however many threads there are.

#include "knn_rows.hpp"

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <vector>

#include "half.hpp"
#include "knn.hpp"
#include "knn_screen.hpp"
#include "mapped.hpp"
#include "parallel.hpp"
#include "rows.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kMostStrips = 16;    // prepared at a time where several panels share them
constexpr std::int64_t kChunk = 40 * kStrip;  // rows that a thread takes at a time, at most

template <typename Stored>
class Worker {
 public:
  Worker(const Screener<Stored>& screener, const float* queries, std::int64_t count, const StoredRows<Stored>& rows,
         std::int64_t k)
      : screener_(screener),
        queries_(queries),
        rows_(rows),
        panels_((count + kPanel - 1) / kPanel),
        strips_(panels_ == 1 ? 1 : kMostStrips),
        strip_bytes_((screener.strip_bytes() + 63) / 64 * 64),
        best_(count, k),
        thresholds_(panels_ * kPanel, std::numeric_limits<float>::infinity()),
        prepared_(strips_ * strip_bytes_ + 64),
        row_(rows.width) {
    std::fill_n(thresholds_.begin(), count, -std::numeric_limits<float>::infinity());
  }

  // False: a strip has NaN or Inf.
  bool search(std::int64_t begin, std::int64_t end) {
    char* const prepared = prepared_.data() + (64 - reinterpret_cast<std::uintptr_t>(prepared_.data()) % 64) % 64;
    for (std::int64_t first = begin; first < end; first += strips_ * kStrip) {
      const std::int64_t strips = std::min(strips_, (end - first + kStrip - 1) / kStrip);
      for (std::int64_t n = 0; n < strips; ++n)
        if (!screener_.prepare(rows_, first + n * kStrip, prepared + n * strip_bytes_)) return false;
      std::fill_n(inverses_, strips * kStrip, -1.0f);
      const bool soon = strips_ == 1 && first + kStrip < end;
      const Stored* const ahead = soon ? rows_.data + (first + kStrip) * rows_.stride : nullptr;
      for (std::int64_t panel = 0; panel < panels_; ++panel)
        for (std::int64_t n = 0; n < strips; ++n) {
          float bounds[kStrip * kPanel];
          screener_.bound(prepared + n * strip_bytes_, panel, ahead, bounds);
          const std::int64_t here = first + n * kStrip, rows = std::min(kStrip, end - here);
          for (std::int64_t r = 0; r < rows; ++r)
            score(here + r, inverses_[n * kStrip + r], panel * kPanel, bounds + r * kPanel);
        }
    }
    return true;
  }

  TopK<float>& best() { return best_; }

 private:
  // Scores a row in float32 for the panel's queries that it may be near to.
  void score(std::int64_t at, float& inverse, std::int64_t panel, const float* bounds) {
    const float* const thresholds = thresholds_.data() + panel;
    int any = 0;
#pragma omp simd reduction(| : any)
    for (std::int64_t q = 0; q < kPanel; ++q) any |= bounds[q] > thresholds[q];
    if (!any) return;
    const float* const row = screener_.to_floats(rows_.data + at * rows_.stride, row_.data());
    if (inverse < 0) inverse = static_cast<float>(inverse_norm(quick_dot(row, row, rows_.width)));
    for (std::int64_t q = 0; q < kPanel; ++q) {
      if (!(bounds[q] > thresholds[q])) continue;
      const std::int64_t query = panel + q;
      const float cosine = quick_dot(queries_ + query * rows_.width, row, rows_.width) * inverse;
      if (!(cosine > best_.threshold(query))) continue;
      best_.push(query, cosine, at);
      thresholds_[query] = best_.threshold(query);
    }
  }

  const Screener<Stored>& screener_;
  const float* queries_;
  StoredRows<Stored> rows_;
  std::int64_t panels_, strips_, strip_bytes_;
  TopK<float> best_;
  std::vector<float> thresholds_;
  std::vector<char> prepared_;
  std::vector<float> row_;
  float inverses_[kMostStrips * kStrip];
};

template <typename Stored>
std::int64_t first_not_finite(const StoredRows<Stored>& rows, std::int64_t begin) {
  for (std::int64_t r = begin; r < rows.count; ++r)
    for (std::int64_t d = 0; d < rows.width; ++d)
      if (!is_finite(rows.data[r * rows.stride + d])) return r;
  return -1;
}

}  // namespace

bool can_screen(Screen screen, std::int64_t width) {
  return screen != Screen::kBytes || can_screen_in_bytes(width);
}

template <typename Stored>
std::int64_t nearest_rows(const float* queries, std::int64_t count, const StoredRows<Stored>& rows, std::int64_t k,
                          float* scores, std::int64_t* indices, Screen screen, int threads) {
  const bool bytes = screen != Screen::kFloats && can_screen(Screen::kBytes, rows.width);
  const auto screener = bytes ? screen_in_bytes<Stored>(queries, count, rows.width, Lengths::kDivided, threads)
                              : screen_in_floats<Stored>(queries, count, rows.width);
  const std::int64_t share = (rows.count / (4 * threads) + kStrip - 1) / kStrip * kStrip;
  const std::int64_t chunk = std::clamp(share, kStrip, kChunk);
  const auto byte = [&](std::int64_t row) { return reinterpret_cast<const char*>(rows.data + row * rows.stride); };
  const bool mapped = is_shared_mapping(byte(0), byte(rows.count - 1) - byte(0));
  std::vector<std::unique_ptr<Worker<Stored>>> workers(threads);
  std::atomic<std::int64_t> bad{rows.count};  // no later than the first strip with NaN or Inf starts
  parallel_chunks(rows.count, chunk, threads, [&](std::int64_t begin, std::int64_t end, int thread) {
    if (begin > bad) return;
    auto& worker = workers[thread];
    if (!worker) worker = std::make_unique<Worker<Stored>>(*screener, queries, count, rows, k);
    if (mapped) advise(Pages::kMap, byte(begin), byte(end - 1) - byte(begin));
    const bool finite = worker->search(begin, end);
    if (mapped) advise(Pages::kUnmap, byte(begin), byte(end - 1) - byte(begin));
    if (finite) return;
    std::int64_t known = bad;
    while (begin < known && !bad.compare_exchange_weak(known, begin)) {
    }
  });
  if (bad < rows.count) return first_not_finite(rows, bad);
  TopK<float>* all = nullptr;
  for (auto& worker : workers) {
    if (!worker) continue;
    if (all == nullptr)
      all = &worker->best();
    else
      all->join(worker->best());
  }
  all->write(scores, indices, k, threads);
  return -1;
}

template std::int64_t nearest_rows(const float*, std::int64_t, const StoredRows<float>&, std::int64_t, float*,
                                   std::int64_t*, Screen, int);
template std::int64_t nearest_rows(const float*, std::int64_t, const StoredRows<std::uint16_t>&, std::int64_t, float*,
                                   std::int64_t*, Screen, int);

}  // namespace salcr
