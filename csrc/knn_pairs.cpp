// A search among float32 rows by products of bytes. Products of bytes bound the pairs of a block of rows with a block of columns,
// whose bytes stay in the second-level cache; where the columns are the rows, a block serves both sides, and half of the pairs are
// multiplied. A pair whose bound reaches the k-th best of a row, as far as that is known, waits in the row's buffer. A full buffer
// is scored in float32 from the largest bound on, until a bound stays below the k-th best: of a row's products hardly more than k
// are made twice. Where other columns were searched before, rows begin with the k-th best of these, and few pairs have to wait.
//
// Per pair that is width / 64 instructions of 64 products, against width / 16 in float32.

#include "knn_pairs.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "interrupts.hpp"
#include "knn.hpp"
#include "knn_screen.hpp"
#include "knn_vnni.hpp"
#include "parallel.hpp"
#include "rows.hpp"

namespace salcr {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t kTile = 96;         // rows of whole strips and whole panels
constexpr std::int64_t kMostTiles = 5;     // in a block
constexpr std::int64_t kWaiting = 128;     // pairs of a row that wait to be scored, and 2 k
constexpr std::int64_t kSampled = 2 * kStrip;  // rows of the trial

// For each row of a strip, the columns of a panel, a bit each, whose bound reaches the row's threshold or the column's own.
#ifdef SALCR_HAS_BYTES
SALCR_VNNI void reaching(const float* bounds, const float* of_rows, const float* of_columns, std::uint32_t* reach) {
  static_assert(kPanel == 32);
  const __m512 low = _mm512_loadu_ps(of_columns), high = _mm512_loadu_ps(of_columns + 16);
  for (std::int64_t r = 0; r < kStrip; ++r, bounds += kPanel) {
    const __m512 own = _mm512_set1_ps(of_rows[r]);
    const __mmask16 left = _mm512_cmp_ps_mask(_mm512_loadu_ps(bounds), _mm512_min_ps(own, low), _CMP_GE_OQ);
    const __mmask16 right = _mm512_cmp_ps_mask(_mm512_loadu_ps(bounds + 16), _mm512_min_ps(own, high), _CMP_GE_OQ);
    reach[r] = static_cast<std::uint32_t>(left) | static_cast<std::uint32_t>(right) << 16;
  }
}
#else
void reaching(const float*, const float*, const float*, std::uint32_t* reach) { std::fill_n(reach, kStrip, ~0u); }
#endif

struct Pair {
  std::int64_t block, column_block;
};

// Hands out pairs of blocks, so that no block whose lists change is with two threads at a time.
class Schedule {
 public:
  // All pairs that wanted(pair) accepts.
  template <typename Wanted>
  Schedule(std::int64_t blocks, std::int64_t column_blocks, bool own, Wanted wanted) : own_(own), busy_(blocks, false) {
    for (std::int64_t n = 0; n < column_blocks; ++n)
      for (std::int64_t block = 0; block < blocks && (!own || block + n < column_blocks); ++block) {
        const Pair pair{block, own ? block + n : n};  // own: those of one diagonal have few blocks in common
        if (wanted(pair)) pairs_.push_back(pair);
      }
    started_.assign(pairs_.size(), false);
  }

  // Calls visit(pair) until none is left; as many threads as there are may do so together. What a visit or a handler of a signal
  // throws ends it for all.
  template <typename Visit>
  void run(Visit visit) {
    Interrupts interrupts;
    std::unique_lock<std::mutex> lock(mutex_);
    while (first_ < pairs_.size()) {
      const std::size_t at = free_pair();
      if (at == pairs_.size()) {
        freed_.wait(lock);
        continue;
      }
      const Pair pair = pairs_[at];
      started_[at] = true;
      while (first_ < pairs_.size() && started_[first_]) ++first_;
      mark(pair, true);
      lock.unlock();
      try {
        visit(pair);
        interrupts.poll();
      } catch (...) {
        lock.lock();
        first_ = pairs_.size();
        freed_.notify_all();
        throw;
      }
      lock.lock();
      mark(pair, false);
      freed_.notify_all();
    }
  }

 private:
  std::size_t free_pair() const {
    for (std::size_t n = first_; n < pairs_.size(); ++n)
      if (!started_[n] && !busy_[pairs_[n].block] && !(own_ && busy_[pairs_[n].column_block])) return n;
    return pairs_.size();
  }

  void mark(Pair pair, bool busy) {
    busy_[pair.block] = busy;
    if (own_) busy_[pair.column_block] = busy;
  }

  bool own_;
  std::vector<Pair> pairs_;
  std::vector<char> started_, busy_;
  std::size_t first_ = 0;
  std::mutex mutex_;
  std::condition_variable freed_;
};

class Search {
 public:
  // `screener` holds the columns as queries.
  Search(const Screener<float>& screener, FloatRows rows, FloatRows columns, std::int64_t width, std::int64_t k, bool own,
         std::int64_t split, const float* floors, int threads)
      : screener_(screener),
        rows_(rows),
        columns_(columns),
        width_(width),
        own_(own),
        split_(split),
        threads_(threads),
        k_(k),
        room_(kWaiting + 2 * k),
        best_(rows.count, k),
        padded_((rows.count + kTile - 1) / kTile * kTile),
        strip_bytes_((screener.strip_bytes() + 63) / 64 * 64),
        strips_(static_cast<char*>(::operator new(padded_ / kStrip * strip_bytes_, std::align_val_t{64}))),
        thresholds_(padded_, -kInfinity),
        waiting_(rows.count * room_),
        counts_(rows.count, 0) {
    if (floors != nullptr) std::copy_n(floors, rows.count, thresholds_.begin());
    const StoredRows<float> stored{rows.data, rows.count, width, width};
    parallel_chunks(padded_ / kStrip, 8, threads, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t n = begin; n < end; ++n) screener.prepare(stored, n * kStrip, strips_.get() + n * strip_bytes_);
    });
  }

  void run() {
    const std::int64_t tiles = padded_ / kTile, all = (columns_.count + kTile - 1) / kTile;
    block_ = std::clamp<std::int64_t>(tiles / (4 * threads_), 1, kMostTiles) * kTile;
    const std::int64_t column_block = own_ ? block_ : std::min(all, kMostTiles) * kTile;
    Schedule schedule((padded_ + block_ - 1) / block_, (all * kTile + column_block - 1) / column_block, own_, [&](Pair pair) {
      return split_ == 0 || (pair.block * block_ < split_ && (pair.column_block + 1) * column_block > split_);
    });
    parallel_chunks(threads_, 1, threads_, [&](std::int64_t, std::int64_t, int) {
      schedule.run([&](Pair pair) {
        const std::int64_t first = pair.block * block_, column = pair.column_block * column_block;
        visit(first, std::min(first + block_, rows_.count), column, std::min(column + column_block, columns_.count));
      });
    });
    parallel_chunks(rows_.count, 32, threads_, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t row = begin; row < end; ++row) score(row);
    });
  }

  void write(float* scores, std::int64_t* indices, std::int64_t stride) { best_.write(scores, indices, stride, threads_); }

  std::int64_t scored() const { return scored_; }

 private:
  struct Waiting {
    float bound, least;  // of the product
    std::int32_t index;
  };

  struct Free {
    void operator()(char* memory) const { ::operator delete(memory, std::align_val_t{64}); }
  };

  void visit(std::int64_t begin, std::int64_t end, std::int64_t begin_column, std::int64_t end_column) {
    float bounds[kStrip * kPanel], none[kPanel];
    std::uint32_t reach[kStrip];
    std::fill_n(none, kPanel, kInfinity);
    if (split_ > 0) end = std::min(end, split_), begin_column = std::max(begin_column, split_ / kPanel * kPanel);
    for (std::int64_t first = begin; first < end; first += kStrip)
      for (std::int64_t column = begin_column; column < end_column; column += kPanel) {
        const std::int64_t columns = std::min(kPanel, end_column - column);
        if (own_ && column + columns - 1 <= first) continue;
        const char* const strip = strips_.get() + first / kStrip * strip_bytes_;
        screener_.bound(strip, column / kPanel, nullptr, bounds);
        const float* const others = own_ ? thresholds_.data() + column : none;
        reaching(bounds, thresholds_.data() + first, others, reach);
        for (std::int64_t r = 0; r < std::min(kStrip, end - first); ++r) {
          const std::int64_t least = own_ ? std::max<std::int64_t>(0, std::max(first + r + 1, split_) - column) : 0;
          for (std::uint32_t left = reach[r]; left != 0; left &= left - 1) {
            const std::int64_t c = __builtin_ctz(left);
            if (c >= least && c < columns) collect(strip, first + r, column + c, bounds[r * kPanel + c], others[c]);
          }
        }
      }
  }

  // Keeps a pair for the row, or for the column, whose threshold its bound reaches.
  void collect(const char* strip, std::int64_t row, std::int64_t column, float bound, float other) {
    const bool here = bound >= thresholds_[row], there = own_ && bound >= other;
    if (!here && !there) return;
    const float slack = screener_.slack(strip, row % kStrip, column);
    const float least = slack < kInfinity ? bound - slack : -kInfinity;
    if (here) keep(row, {bound, least, static_cast<std::int32_t>(column)});
    if (there) keep(column, {bound, least, static_cast<std::int32_t>(row)});
  }

  void keep(std::int64_t row, Waiting pair) {
    waiting_[row * room_ + counts_[row]++] = pair;
    if (counts_[row] < room_) return;
    drop(row);
    if (counts_[row] > room_ - kWaiting / 2) score(row);
  }

  // Leaves out pairs that cannot be among the k largest: whose bound is below what k others have at least.
  void drop(std::int64_t row) {
    Waiting* const waiting = waiting_.data() + row * room_;
    std::nth_element(waiting, waiting + k_ - 1, waiting + counts_[row],
                     [](const Waiting& a, const Waiting& b) { return a.least > b.least; });
    const float threshold = thresholds_[row] = std::max(thresholds_[row], waiting[k_ - 1].least);
    const auto kept = std::remove_if(waiting, waiting + counts_[row], [=](const Waiting& x) { return x.bound < threshold; });
    counts_[row] = static_cast<std::int32_t>(kept - waiting);
  }

  void score(std::int64_t row) {
    Waiting* const waiting = waiting_.data() + row * room_;
    const std::int64_t count = counts_[row];
    std::sort(waiting, waiting + count, [](const Waiting& a, const Waiting& b) { return a.bound > b.bound; });
    const float* const own = rows_.data + row * width_;
    float threshold = thresholds_[row];
    std::int64_t n = 0;
    for (; n < count && waiting[n].bound >= threshold; ++n) {
      if (n + 1 < count) prefetch(columns_.data + waiting[n + 1].index * width_, width_);
      const float score = quick_dot(own, columns_.data + waiting[n].index * width_, width_);
      if (score >= threshold) best_.push(row, score, waiting[n].index);
      threshold = std::max(threshold, best_.threshold(row));
    }
    best_.cut(row);
    thresholds_[row] = std::max(threshold, best_.threshold(row));
    counts_[row] = 0;
    scored_.fetch_add(n, std::memory_order_relaxed);
  }

  const Screener<float>& screener_;
  FloatRows rows_, columns_;
  std::int64_t width_;
  bool own_;
  std::int64_t split_;  // 0: all pairs are wanted
  int threads_;
  std::int64_t k_, room_;
  TopK<float> best_;
  std::int64_t padded_, strip_bytes_, block_ = kTile;
  std::unique_ptr<char, Free> strips_;
  std::vector<float> thresholds_;  // below which a product is not among a row's k largest
  std::vector<Waiting> waiting_;
  std::vector<std::int32_t> counts_;
  std::atomic<std::int64_t> scored_{0};
};

// `count` rows of `of`, evenly spaced.
std::vector<float> sample(const float* rows, std::int64_t width, std::int64_t of, std::int64_t count) {
  std::vector<float> sampled;
  for (std::int64_t n = 0; n < count; ++n) {
    const float* const row = rows + n * of / count * width;
    sampled.insert(sampled.end(), row, row + width);
  }
  return sampled;
}

}  // namespace

bool nearest_pairs(FloatRows rows, FloatRows columns, std::int64_t width, std::int64_t k, bool own, std::int64_t split,
                   const float* floors, double limit, float* scores, std::int64_t* indices, std::int64_t stride, int threads) {
  const auto screener = screen_in_bytes<float>(columns.data, columns.count, width, Lengths::kCount, threads);
  if (limit < static_cast<double>(columns.count)) {
    const std::int64_t count = std::min(kSampled, rows.count);
    const std::vector<float> some = sample(rows.data, width, rows.count, count);
    std::vector<float> some_floors;
    if (floors != nullptr) some_floors = sample(floors, 1, rows.count, count);
    const float* const their_floors = floors == nullptr ? nullptr : some_floors.data();
    Search trial(*screener, {some.data(), count}, columns, width, k, false, 0, their_floors, threads);
    trial.run();
    if (static_cast<double>(trial.scored()) > limit * static_cast<double>(count)) return false;
  }
  Search search(*screener, rows, columns, width, k, own, split, floors, threads);
  search.run();
  search.write(scores, indices, stride);
  return true;
}

}  // namespace salcr
