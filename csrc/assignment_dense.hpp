#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "assignment_matching.hpp"
#include "assignment_rows.hpp"
#include "assignment_vectors.hpp"

namespace salcr {

// Dijkstra's search from a free row to the nearest column with room, each row that it reaches over all columns.
template <typename Real>
class DenseSearch {
 public:
  DenseSearch(const Costs<Real>& costs, double* prices, Matching& matching)
      : costs_(costs), prices_(prices), matching_(matching) {}

  // Prices fall and columns change hands on the way. False if there is none that avoids all forbidden pairs.
  bool augment(std::int32_t start) {
    return by_widest([&](auto lanes) { return augment_by<lanes()>(start); });
  }

 private:
  static constexpr std::int32_t kNone = Matching::kNone;

  struct Settled {
    double distance;
    std::int32_t column;
  };

  template <int kLanes>
  bool augment_by(std::int32_t start) {
    const auto width = static_cast<std::size_t>(padded(costs_.cols));
    settled_.clear();
    open_prices_.assign(prices_, prices_ + width), distance_.assign(width, kInfinity), source_.resize(width);
    double level = -kInfinity, offset = 0.0;
    Nearest nearest;
    for (std::int32_t row = start, column = kNone;; offset = level - (matching_.cost[row] - prices_[column])) {
      const Row<Real> its_costs(costs_, open_prices_.data(), row);
      nearest = relax<kLanes>(its_costs, offset, row, matching_.full.data(), distance_.data(), source_.data());
      row = column == kNone ? kNone : matching_.next[row];
      if (row != kNone) continue;
      level = std::max(level, nearest.distance);
      if (!(nearest.distance < nearest.with_room)) break;
      column = static_cast<std::int32_t>(nearest.column);
      store_lane<kLanes>(open_prices_.data(), column, -kInfinity);
      store_lane<kLanes>(distance_.data(), column, kInfinity);
      settled_.push_back({level, column});
      row = matching_.first[column];
    }
    if (nearest.distance == kInfinity) return false;
    const std::int64_t sink = find_with_room(distance_.data(), nearest.distance, matching_.full.data(), costs_.cols);
    for (const Settled& at : settled_) prices_[at.column] -= level - at.distance;
    matching_.change_hands(costs_, start, static_cast<std::int32_t>(sink), source_);
    return true;
  }

  const Costs<Real> costs_;
  double* const prices_;
  Matching& matching_;
  std::vector<double> open_prices_;  // -inf for a column that is not open any more
  std::vector<double> distance_;
  std::vector<std::int64_t> source_;  // the row that a column is reached from; as wide as a distance, for the vector loops
  std::vector<Settled> settled_;
};

}  // namespace salcr
