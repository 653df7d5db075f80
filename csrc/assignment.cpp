// Shortest augmenting paths of the Jonker-Volgenant family. With v_j the price of column j and c_ij - v_j the reduced cost, a row
// is always assigned to a column of its least reduced cost:
//
// 1. square one-to-one problems: column reduction, v_j = min_i c_ij; all others start at v = 0, and a column that stays without
//    a row keeps it, as the duals of a rectangular problem have to;
// 2. one-to-one: augmenting row reduction, a free row takes its best column and lowers its price until the second best is as
//    good, which frees whoever was there (bids that take a free column are JV's column assignment and reduction transfer);
// 3. every row still free: Dijkstra's search to the nearest column with room. A column of several rows expands all of them.
//
// No step sweeps a row that its list of candidates can answer for (candidates.hpp). To a search, "look at the whole row" is an
// event in its queue, due at the least distance that a column outside the list can have: most searches end before it. A
// search that queues more than a few entries a column (rank-one costs) goes on in the dense form of the algorithm.

#include "assignment.hpp"

#include <algorithm>
#include <vector>

#include "assignment_matching.hpp"
#include "candidates.hpp"
#include "each_isa.hpp"

namespace salcr {
namespace {

constexpr std::int32_t kNone = Matching::kNone;
constexpr int kReductions = 8;       // rounds of step 2
constexpr int kQueuedPerColumn = 4;  // more entries that a search has ever queued make it dense
constexpr int kBlock = 32;

template <typename Real>
class Solver {
 public:
  Solver(const Costs<Real>& costs, std::int64_t capacity, double* prices)
      : costs_(costs),
        prices_(prices),
        candidates_(costs, prices),
        matching_(costs.rows, costs.cols, capacity),
        distance_(costs.cols, kInfinity),
        source_(costs.cols, kNone),
        offset_(costs.rows, 0.0) {
    std::fill_n(prices, costs.cols, 0.0);
  }

  bool solve(bool one_to_one) {
    std::vector<std::int32_t> free(costs_.rows);
    for (std::int64_t i = 0; i < costs_.rows; ++i) free[i] = static_cast<std::int32_t>(i);
    if (one_to_one) {
      if (costs_.rows == costs_.cols && !reduce_columns()) return false;
      for (int round = 0; round < kReductions && !free.empty(); ++round) free = reduce_rows(free);
    }
    for (const std::int32_t row : free)
      if (!augment(row)) return false;
    return true;
  }

  void read(std::int64_t* partner, double* u) const {
    for (std::int64_t i = 0; i < costs_.rows; ++i) {
      partner[i] = matching_.column[i];
      u[i] = matching_.cost[i] - prices_[matching_.column[i]];
    }
  }

 private:
  using Entry = typename Candidates<Real>::Entry;

  struct Event {
    double due;
    std::int32_t what;  // a column that is reached, or ~row: time to look at all columns of that row

    bool operator<(const Event& other) const {  // of std::push_heap, which keeps the largest on top: rows before columns
      return due > other.due || (due == other.due && what > other.what);
    }
  };

  bool reduce_columns() {
    std::fill_n(prices_, costs_.cols, kInfinity);
    for (std::int64_t i = 0; i < costs_.rows; ++i) {
      const Real* const row = costs_.data + i * costs_.stride;
#pragma omp simd
      for (std::int64_t j = 0; j < costs_.cols; ++j) {
        const double x = costs_.sign * row[j];
        prices_[j] = x < prices_[j] ? x : prices_[j];
      }
    }
    return std::all_of(prices_, prices_ + costs_.cols, [](double v) { return v < kInfinity; });
  }

  // One round of bids; returns the rows that are free after it. The budget ends bidding wars whose steps are tiny.
  std::vector<std::int32_t> reduce_rows(const std::vector<std::int32_t>& free) {
    std::vector<std::int32_t> left;
    std::int64_t budget = 4 * static_cast<std::int64_t>(free.size()) + 64;
    for (std::int32_t row : free) {
      while (row != kNone && budget-- > 0) row = bid(row, left);
      if (row != kNone) left.push_back(row);
    }
    return left;
  }

  // The row that lost its column and bids next, or none. One that is no better off elsewhere waits in `left`.
  std::int32_t bid(std::int32_t row, std::vector<std::int32_t>& left) {
    double least, second;
    const Entry *best, *other;
    for (bool fresh = false;; fresh = true) {
      least = second = kInfinity;
      best = other = nullptr;
      for (const Entry* e = candidates_.begin(row); e != candidates_.end(row) && e->reduced < second; ++e) {
        const double x = e->cost - prices_[e->column];
        if (x < least) {
          second = least, other = best;
          least = x, best = e;
        } else if (x < second) {
          second = x, other = e;
        }
      }
      if (fresh || second <= candidates_.floor(row)) break;
      candidates_.refill(row);
    }
    second = std::min(second, candidates_.floor(row));
    const bool tie = !(least < second);
    if (tie && other != nullptr && matching_.room[best->column] == 0) best = other;
    // Without a second column no price is high enough: such a row takes its column only while that is free.
    if (best == nullptr || (second == kInfinity && matching_.room[best->column] == 0)) {
      left.push_back(row);
      return kNone;
    }
    const std::int32_t loser = matching_.first[best->column];
    if (loser != kNone) matching_.detach(loser);
    matching_.attach(row, best->column, best->cost);
    if (second < kInfinity) prices_[best->column] -= second - least;
    if (tie && loser != kNone) left.push_back(loser);
    return tie ? kNone : loser;
  }

  // Dijkstra's search from a free row to the nearest column with room; then prices fall and columns change hands on the way.
  bool augment(std::int32_t start) {
    bound_ = kInfinity, sink_ = kNone, queued_ = 0;
    expand(start, 0.0);
    while (!queue_.empty() && queue_.front().due < bound_) {
      if (queued_ > kQueuedPerColumn * costs_.cols) {
        search_densely();
        break;
      }
      const Event event = queue_.front();
      std::pop_heap(queue_.begin(), queue_.end());
      queue_.pop_back();
      if (event.what < 0)
        expand_fully(~event.what);
      else if (event.due == distance_[event.what])
        settle(event, [this](std::int32_t row, double offset) { expand(row, offset); });
    }
    const bool found = sink_ != kNone;
    if (found) change_hands(start);
    for (const std::int32_t column : touched_) distance_[column] = kInfinity;
    queue_.clear(), settled_.clear(), touched_.clear();
    return found;
  }

  void change_hands(std::int32_t start) {
    for (const Event& event : settled_) prices_[event.what] -= bound_ - event.due;
    for (std::int32_t column = sink_, row = kNone; row != start;) {
      row = static_cast<std::int32_t>(source_[column]);
      const std::int32_t before = matching_.column[row];
      if (before != kNone) matching_.detach(row);
      matching_.attach(row, column, costs_(row, column));
      column = before;
    }
  }

  // The column's distance is final: on to all rows that have it.
  template <typename Expand>
  void settle(const Event& event, Expand&& expand_row) {
    distance_[event.what] = -kInfinity;
    settled_.push_back(event);
    for (std::int32_t row = matching_.first[event.what]; row != kNone; row = matching_.next[row])
      expand_row(row, event.due - (matching_.cost[row] - prices_[event.what]));
  }

  void enqueue(double due, std::int32_t what) {
    queue_.push_back({due, what}), ++queued_;
    std::push_heap(queue_.begin(), queue_.end());
  }

  void reach(std::int32_t column, double distance, std::int32_t row) {
    if (!(distance < distance_[column] && distance < bound_)) return;
    if (distance_[column] == kInfinity) touched_.push_back(column);
    distance_[column] = distance;
    source_[column] = row;
    if (matching_.room[column] > 0)
      bound_ = distance, sink_ = column;
    else
      enqueue(distance, column);
  }

  // A column is `offset` plus its reduced cost away through this row.
  void expand(std::int32_t row, double offset) {
    offset_[row] = offset;
    for (const Entry* e = candidates_.begin(row); e != candidates_.end(row) && offset + e->reduced < bound_; ++e)
      reach(e->column, offset + (e->cost - prices_[e->column]), row);
    if (offset + candidates_.floor(row) < bound_) enqueue(offset + candidates_.floor(row), ~row);
  }

  // Columns with room come first: the bound that they set keeps most others out of the queue.
  void expand_fully(std::int32_t row) {
    const double* const reduced = candidates_.refill(row);
    const double offset = offset_[row];
    double nearest = kInfinity;
#pragma omp simd reduction(min : nearest)
    for (std::int64_t j = 0; j < costs_.cols; ++j) {
      const double x = matching_.room[j] > 0 ? reduced[j] : kInfinity;
      nearest = x < nearest ? x : nearest;
    }
    if (offset + nearest < bound_) {
      std::int32_t j = 0;
      while (matching_.room[j] <= 0 || reduced[j] != nearest) ++j;
      reach(j, offset + nearest, row);
    }
    for (std::int64_t j = 0; j < costs_.cols; j += kBlock) {
      const int width = static_cast<int>(std::min<std::int64_t>(kBlock, costs_.cols - j));
      int hits = 0;
#pragma omp simd reduction(+ : hits)
      for (int l = 0; l < width; ++l) {
        const double x = offset + reduced[j + l];
        hits += (x < distance_[j + l]) & (x < bound_);
      }
      if (hits == 0) continue;
      for (int l = 0; l < width; ++l) reach(static_cast<std::int32_t>(j + l), offset + reduced[j + l], row);
    }
  }

  void relax(std::int32_t row) {
    const Real* const cost = costs_.data + row * costs_.stride;
    const double offset = offset_[row], sign = costs_.sign;
    double* const distance = distance_.data();
    std::int64_t* const source = source_.data();
#pragma omp simd
    for (std::int64_t j = 0; j < costs_.cols; ++j) {
      const double x = offset + (sign * cost[j] - prices_[j]);
      const bool nearer = x < distance[j];
      distance[j] = nearer ? x : distance[j];
      source[j] = nearer ? row : source[j];
    }
  }

  // Goes on with a search that the queue has become too long for, each row over all columns, until it ends.
  void search_densely() {
    for (const Event& event : queue_)
      if (event.what < 0) relax(~event.what);
    for (;;) {
      double least = kInfinity;
#pragma omp simd reduction(min : least)
      for (std::int64_t j = 0; j < costs_.cols; ++j) {
        const double x = distance_[j] > -kInfinity ? distance_[j] : kInfinity;
        least = x < least ? x : least;
      }
      if (least == kInfinity) break;
      const auto at = std::find(distance_.begin(), distance_.end(), least);
      const auto column = static_cast<std::int32_t>(at - distance_.begin());
      if (matching_.room[column] > 0) {
        bound_ = least, sink_ = column;
        break;
      }
      settle({least, column}, [this](std::int32_t row, double offset) {
        offset_[row] = offset;
        relax(row);
      });
    }
    std::fill(distance_.begin(), distance_.end(), kInfinity);
  }

  const Costs<Real> costs_;
  double* const prices_;
  Candidates<Real> candidates_;
  Matching matching_;

  // Of one search. A distance of -inf is final, one of inf unknown.
  std::vector<double> distance_;
  std::vector<std::int64_t> source_;  // the row that a column is reached from; as wide as a distance, for the vector loops
  std::vector<double> offset_;
  std::vector<Event> queue_, settled_;
  std::vector<std::int32_t> touched_;
  std::int64_t queued_ = 0;
  double bound_ = kInfinity;  // distance of the nearest column with room so far, sink_
  std::int32_t sink_ = kNone;
};

}  // namespace

template <typename Real>
SALCR_FOR_EACH_ISA bool solve_assignment(const Costs<Real>& costs, std::int64_t capacity, std::int64_t* partner, double* u, double* v) {
  Solver<Real> solver(costs, capacity, v);
  if (!solver.solve(capacity == 1)) return false;
  solver.read(partner, u);
  return true;
}

template bool solve_assignment(const Costs<float>&, std::int64_t, std::int64_t*, double*, double*);
template bool solve_assignment(const Costs<double>&, std::int64_t, std::int64_t*, double*, double*);

}  // namespace salcr
