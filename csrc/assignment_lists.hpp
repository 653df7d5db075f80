#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "assignment_matching.hpp"
#include "assignment_rows.hpp"
#include "candidates.hpp"

namespace salcr {

// Dijkstra's search from a free row to the nearest column with room, over the rows' lists of candidates. A row is swept as a whole
// only when the search gets to the least distance that a column outside its list can have: most searches end before. That is an
// event in the queue, beside the columns that are reached.
template <typename Real>
class ListSearch {
 public:
  enum class End { kFound, kNoWay, kTooLong };

  ListSearch(const Costs<Real>& costs, double* prices, Matching& matching)
      : candidates(costs, prices),
        costs_(costs),
        prices_(prices),
        matching_(matching),
        distance_(costs.cols, kInfinity),
        source_(costs.cols, kNone),
        offset_(costs.rows, 0.0) {}

  // Prices fall and columns change hands on the way. Too long: the search has queued kQueuedPerColumn events a column, or so far
  // more than one row in kExpandedPerRefill had to be swept as a whole.
  End augment(std::int32_t start) {
    bound_ = kInfinity, sink_ = kNone, queued_ = 0;
    End end = End::kFound;
    expand(start, 0.0);
    while (end == End::kFound && !queue_.empty() && queue_.front().due < bound_) {
      const Event event = queue_.front();
      std::pop_heap(queue_.begin(), queue_.end());
      queue_.pop_back();
      if (event.what < 0)
        expand_fully(~event.what);
      else if (event.due == distance_[event.what])
        settle(event);
      if (queued_ > kQueuedPerColumn * costs_.cols || (refilled_ > kTried && kExpandedPerRefill * refilled_ > expanded_))
        end = End::kTooLong;
    }
    if (end == End::kFound && sink_ == kNone) end = End::kNoWay;
    if (end == End::kFound) {
      for (const Event& event : settled_) prices_[event.what] -= bound_ - event.due;
      matching_.change_hands(costs_, start, sink_, source_);
    }
    for (const std::int32_t column : touched_) distance_[column] = kInfinity;
    queue_.clear(), settled_.clear(), touched_.clear();
    return end;
  }

  Candidates<Real> candidates;

 private:
  static constexpr std::int32_t kNone = Matching::kNone;
  static constexpr int kQueuedPerColumn = 4, kTried = 64, kExpandedPerRefill = 4;

  using Entry = typename Candidates<Real>::Entry;

  struct Event {
    double due;
    std::int32_t what;  // a column that is reached, or ~row: time to look at all columns of that row

    bool operator<(const Event& other) const {  // of std::push_heap, which keeps the largest on top: rows before columns
      return due > other.due || (due == other.due && what > other.what);
    }
  };

  // The column's distance is final: on to all rows that have it.
  void settle(const Event& event) {
    distance_[event.what] = -kInfinity;
    settled_.push_back(event);
    for (std::int32_t row = matching_.first[event.what]; row != kNone; row = matching_.next[row])
      expand(row, event.due - (matching_.cost[row] - prices_[event.what]));
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
    ++expanded_;
    offset_[row] = offset;
    for (const Entry* e = candidates.begin(row); e != candidates.end(row) && offset + e->reduced < bound_; ++e)
      reach(e->column, offset + (e->cost - prices_[e->column]), row);
    if (offset + candidates.floor(row) < bound_) enqueue(offset + candidates.floor(row), ~row);
  }

  // Columns with room come first: the bound that they set keeps most others out of the queue.
  void expand_fully(std::int32_t row) {
    ++refilled_;
    const double* const reduced = candidates.refill(row);
    const double offset = offset_[row];
    const double nearest = least_with_room(reduced, matching_.full.data(), costs_.cols);
    if (offset + nearest < bound_) {
      const std::int64_t j = find_with_room(reduced, nearest, matching_.full.data(), costs_.cols);
      reach(static_cast<std::int32_t>(j), offset + nearest, row);
    }
    for (std::int64_t j = 0; (j = find_nearer(reduced, offset, distance_.data(), bound_, j, costs_.cols)) >= 0; ++j)
      reach(static_cast<std::int32_t>(j), offset + reduced[j], row);
  }

  const Costs<Real> costs_;
  double* const prices_;
  Matching& matching_;

  // Of one search. A distance of -inf is final, one of inf unknown.
  std::vector<double> distance_;
  std::vector<std::int32_t> source_;  // the row that a column is reached from
  std::vector<double> offset_;
  std::vector<Event> queue_, settled_;
  std::vector<std::int32_t> touched_;
  std::int64_t queued_ = 0;
  std::int64_t expanded_ = 0, refilled_ = 0;  // rows, in all searches
  double bound_ = kInfinity;  // distance of the nearest column with room so far, sink_
  std::int32_t sink_ = kNone;
};

}  // namespace salcr
