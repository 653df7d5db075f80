#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "assignment_matching.hpp"
#include "assignment_rows.hpp"

namespace salcr {

// Where costs tie (integers, many equal overlaps), a row has several columns of its least reduced cost. Moving rows among those
// needs no prices: this is a bipartite matching over the tight edges, by the depth-first phases of Pothen and Fan (1990). A phase
// visits each column at most once. The edges are bits, made by one sweep of all rows: 64 columns are looked at in one step.
template <typename Real>
class TightEdges {
 public:
  TightEdges(const Costs<Real>& costs, const double* prices, Matching& matching)
      : costs_(costs), matching_(matching), words_((costs.cols + 63) / 64), tight_(costs.rows * words_) {
    by_widest([&](auto lanes) { mark_all<lanes()>(prices); });
  }

  // Gives columns to as many of the free rows as it can, and returns the others.
  std::vector<std::int32_t> match(std::vector<std::int32_t> free) {
    for (std::size_t before = free.size() + 1; free.size() < before && !free.empty();) {
      before = free.size();
      unseen_.assign(words_, ~std::uint64_t{0});
      std::vector<std::int32_t> left;
      for (const std::int32_t row : free)
        if (!augment(row)) left.push_back(row);
      free.swap(left);
    }
    return free;
  }

 private:
  template <int kLanes>
  void mark_all(const double* prices) {
    for (std::int64_t i = 0; i < costs_.rows; ++i) {
      const Row<Real> row(costs_, prices, i);
      const std::int32_t own = matching_.column[i];
      const double least = own == Matching::kNone ? two_least<kLanes, false>(row).least : row(own);
      if (least == kInfinity) continue;
      for (std::int64_t w = 0; w < words_; ++w) tight_[i * words_ + w] = equal_bits<kLanes>(row, least, 64 * w);
    }
  }

  struct Step {
    std::int32_t row, column;  // that it would take
  };

  bool augment(std::int32_t start) {
    path_.assign(1, {start, Matching::kNone});
    while (!path_.empty()) {
      Step& step = path_.back();
      step.column = common(step.row, matching_.open);
      if (step.column != Matching::kNone) {
        change_hands();
        return true;
      }
      step.column = common(step.row, unseen_);
      if (step.column == Matching::kNone) {
        path_.pop_back();
        continue;
      }
      unseen_[step.column / 64] &= ~(std::uint64_t{1} << step.column % 64);
      path_.push_back({matching_.first[step.column], Matching::kNone});
    }
    return false;
  }

  // The first column of `among` that this row has a tight edge to.
  std::int32_t common(std::int32_t row, const std::vector<std::uint64_t>& among) const {
    const std::uint64_t* const edges = tight_.data() + row * words_;
    for (std::int64_t w = 0; w < words_; ++w)
      if (const std::uint64_t both = edges[w] & among[w]) return static_cast<std::int32_t>(64 * w + __builtin_ctzll(both));
    return Matching::kNone;
  }

  void change_hands() {
    for (; !path_.empty(); path_.pop_back()) {
      const auto [row, column] = path_.back();
      if (matching_.column[row] != Matching::kNone) matching_.detach(row);
      matching_.attach(row, column, costs_(row, column));
    }
  }

  const Costs<Real> costs_;
  Matching& matching_;
  const std::int64_t words_;
  std::vector<std::uint64_t> tight_, unseen_;  // a row's edges; columns not visited in this phase
  std::vector<Step> path_;
};

}  // namespace salcr
