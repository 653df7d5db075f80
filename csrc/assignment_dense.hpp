#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "assignment_matching.hpp"
#include "assignment_rows.hpp"

namespace salcr {

// Dijkstra's search from a free row to the nearest column with room, each row that it reaches over all columns. Columns at one
// distance are settled together: ties cost one look for the least distance.
template <typename Real>
class DenseSearch {
 public:
  DenseSearch(const Costs<Real>& costs, double* prices, Matching& matching)
      : costs_(costs), prices_(prices), matching_(matching) {}

  // Prices fall and columns change hands on the way. False if there is none that avoids all forbidden pairs.
  bool augment(std::int32_t start) {
    settled_.clear();
    distance_.resize(costs_.cols), source_.resize(costs_.cols);
    double nearest = relax_from(start, 0.0, true), level = -kInfinity;
    std::int32_t sink = kNone;
    for (std::size_t next = 0; sink == kNone;) {
      if (next == settled_.size() || nearest <= level) {
        if (nearest == kInfinity) return false;
        sink = settle(nearest, level = std::max(nearest, level));
      }
      if (sink != kNone) break;
      const Settled at = settled_[next++];
      nearest = kInfinity;
      for (std::int32_t row = matching_.first[at.column]; row != kNone; row = matching_.next[row])
        nearest = relax_from(row, at.distance - (matching_.cost[row] - prices_[at.column]), false);
    }
    for (const Settled& at : settled_) prices_[at.column] -= level - at.distance;
    matching_.change_hands(costs_, start, sink, source_);
    return true;
  }

 private:
  static constexpr std::int32_t kNone = Matching::kNone;

  struct Settled {
    double distance;
    std::int32_t column;
  };

  double relax_from(std::int32_t row, double offset, bool first) {
    return relax(Row<Real>(costs_, prices_, row), offset, row, first, distance_.data(), source_.data());
  }

  // All columns of the distance `nearest` become final at `level`, until one of them has room, which is returned.
  std::int32_t settle(double nearest, double level) {
    double* const distance = distance_.data();
    for (std::int64_t j = 0; (j = find_value(distance, nearest, j, costs_.cols)) >= 0; ++j) {
      const auto column = static_cast<std::int32_t>(j);
      if (matching_.room[column] > 0) return column;
      distance[column] = -kInfinity;
      settled_.push_back({level, column});
    }
    return kNone;
  }

  const Costs<Real> costs_;
  double* const prices_;
  Matching& matching_;
  std::vector<double> distance_;
  std::vector<std::int64_t> source_;  // the row that a column is reached from; as wide as a distance, for the vector loops
  std::vector<Settled> settled_;
};

}  // namespace salcr
