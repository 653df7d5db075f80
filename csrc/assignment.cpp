// Shortest augmenting paths of the Jonker-Volgenant family. With v_j the price of column j and c_ij - v_j the reduced cost, a row
// is always assigned to a column of its least reduced cost:
//
// 1. square one-to-one problems: column reduction, v_j = min_i c_ij, and a row that has such a minimum takes one of its columns.
//    Where lists are kept and most rows have none, all bid: their bids set better prices, and make lists.
//    All others start at v = 0, and a column that stays without a row keeps it, as the duals of a rectangular problem have to;
// 2. one-to-one: augmenting row reduction, a free row takes its best column and lowers its price until the second best is as
//    good, which frees whoever was there. Of several best columns it takes a free one, and where many rows find none, or nearly
//    all of a square problem have several, a bipartite matching over the ties comes before any price (assignment_ties.hpp);
// 3. every row still free: Dijkstra's search to the nearest column with room. A column of several rows expands all of them.
//
// A pass over the matrix is what an easy problem costs: one for column reduction, one for the first bids, and a row again whenever
// it is swept. In a problem that is not square the sweep of a row leaves the best column of each lane, most of which are the best
// still when the row bids again (Leaders, assignment_rows.hpp). Up to kSwept columns a row stays in L1, and nothing else is faster
// than to sweep it; nor where few rows share many columns. Else a row gets a list of its best columns (candidates.hpp), which
// answers for it later (assignment_lists.hpp): in a square problem as soon as rows contend for columns, in any other, which has
// columns to spare and often needs no list, once a row has been swept kSweeps times. Searches that lists do not serve (rank-one
// costs, points on a line) sweep too (assignment_dense.hpp).

#include "assignment.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "assignment_dense.hpp"
#include "assignment_lists.hpp"
#include "assignment_matching.hpp"
#include "assignment_rows.hpp"
#include "assignment_ties.hpp"
#include "interrupts.hpp"

namespace salcr {
namespace {

constexpr std::int32_t kNone = Matching::kNone;
constexpr std::int64_t kSwept = 768;
constexpr std::int64_t kLed = 256;  // up to so many columns a sweep costs no more than what it could leave for the next
constexpr std::int64_t kSearched = 128;  // up to so many columns, searches among ties cost no more than a matching over them
constexpr std::int64_t kTies = 32;       // bids that tie, until a round may end for them
constexpr std::int64_t kContests = 16;   // bids that free a row, until rows of a square problem make lists
constexpr char kSweeps = 3;              // sweeps of a row of any other, until it makes one
constexpr std::int64_t kWorth = 8;       // bids go on while placing a row takes fewer than cols / kWorth: a search costs more

template <typename Real>
class Solver {
 public:
  Solver(const Costs<Real>& costs, std::int64_t capacity)
      : costs_(costs),
        one_to_one_(capacity == 1),
        square_(one_to_one_ && costs.rows == costs.cols),
        all_prices_(padded(costs.cols), 0.0),
        prices_(all_prices_.data()),
        matching_(costs.rows, costs.cols, capacity),
        sweeping_(costs, prices_, matching_) {
    if (one_to_one_ && !square_ && costs.cols > kLed) leaders_.reset(new Leaders[costs.rows]);
    if (costs.cols > kSwept && 2 * costs.rows > costs.cols) listing_.emplace(costs, prices_, matching_);
    if (leaders_ || listing_) swept_.resize(costs.rows);
  }

  // False if forbidden pairs leave no assignment, or an entry is NaN or -inf.
  bool solve() {
    if (square_ && !reduce_columns(nullptr)) return false;
    for (std::int64_t i = 0; i < (one_to_one_ ? 0 : costs_.rows); ++i)
      if (!is_legal_row(i)) return false;
    std::vector<std::int32_t> free = free_rows();
    if (one_to_one_ && !free.empty() && !reduce_rows(free)) return false;
    Interrupts interrupts;
    return std::all_of(free.begin(), free.end(), [&](std::int32_t row) { return interrupts.poll(), augment(row); });
  }

  void read(std::int64_t* partner, double* u, double* v) const {
    std::copy_n(matching_.column.data(), costs_.rows, partner);
    if (u != nullptr)
      for (std::int64_t i = 0; i < costs_.rows; ++i) u[i] = matching_.cost[i] - prices_[matching_.column[i]];
    if (v != nullptr) std::copy_n(prices_, costs_.cols, v);
  }

 private:
  // The column of a row's least reduced cost, none if all are forbidden, and how good the second best is.
  struct Bid {
    std::int32_t column = kNone;
    double cost = 0.0, least = kInfinity, second = kInfinity;
  };

  Row<Real> row_of(std::int64_t i) const { return {costs_, prices_, i}; }

  std::vector<std::int32_t> free_rows() const {
    std::vector<std::int32_t> free;
    free.reserve(costs_.rows);
    for (std::int32_t i = 0; i < costs_.rows; ++i)
      if (matching_.column[i] == kNone) free.push_back(i);
    return free;
  }

  // v_j = min_i (c_ij - row_minima[i]), where null stands for zeros. False as solve().
  bool reduce_columns(const double* row_minima) {
    std::vector<std::int64_t> cheapest(all_prices_.size());
    const bool legal =
        by_widest([&](auto lanes) { return column_minima<lanes()>(costs_, row_minima, prices_, cheapest.data()); });
    if (!legal || std::find(prices_, prices_ + costs_.cols, kInfinity) != prices_ + costs_.cols) return false;
    std::fill(prices_ + costs_.cols, prices_ + all_prices_.size(), 0.0);
    served_ = 0;
    for (std::int64_t j = costs_.cols; j-- > 0;)
      if (const std::int64_t i = cheapest[j]; matching_.column[i] == kNone) matching_.attach(i, j, costs_(i, j)), ++served_;
    if (listing_ && 4 * served_ < 3 * costs_.rows) matching_ = Matching(costs_.rows, costs_.cols, 1);
    return true;
  }

  // Rounds of bids, until one places too few rows for what it costs; `free` are the rows without a column. False as solve().
  bool reduce_rows(std::vector<std::int32_t>& free) {
    if (!bid_round(free, true)) return false;
    const auto left = static_cast<std::int64_t>(free.size());
    const bool all_tie = bids_tie();
    if (square_ && !all_tie &&
        (4 * left > 3 * costs_.rows || (4 * left > costs_.rows && 4 * served_ < costs_.rows && tied_ == 0))) {
      const std::int64_t served = served_;
      if (!start_again()) return false;
      free = free_rows();
      if (served_ <= served) return true;  // rows still contend for the same columns, and so would bids
      bid_round(free);
    }
    if (all_tie || (costs_.cols > kSearched && tied_ > 0 && 2 * tied_ >= static_cast<std::int64_t>(free.size())))
      free = TightEdges<Real>(costs_, prices_, matching_).match(free);
    too_long_ = all_tie;
    while (!free.empty()) {
      const auto before = static_cast<std::int64_t>(free.size()), bids = bids_;
      bid_round(free);
      if ((before - static_cast<std::int64_t>(free.size())) * costs_.cols <= kWorth * (bids_ - bids)) break;
    }
    return true;
  }

  // Where some rows cost more than others in every column, the cheap ones hold all column minima, and most rows stay free: back
  // to the start, with column minima of the costs less each row's least. False as solve().
  bool start_again() {
    std::fill_n(prices_, costs_.cols, 0.0);
    std::vector<double> minima(costs_.rows);
    by_widest([&](auto lanes) {
      for (std::int64_t i = 0; i < costs_.rows; ++i) minima[i] = two_least<lanes(), false>(row_of(i)).least;
    });
    if (std::find(minima.begin(), minima.end(), kInfinity) != minima.end()) return false;
    matching_ = Matching(costs_.rows, costs_.cols, 1);
    if (listing_) listing_->candidates.clear();
    return reduce_columns(minima.data());
  }

  // One round of bids of the free rows. The budget ends bidding wars whose steps are tiny. The first round reads the rows of a
  // rectangular problem for the first time, and ends where bids tie in a square one. False if an entry is NaN or -inf.
  bool bid_round(std::vector<std::int32_t>& free, bool first = false) {
    return by_widest([&](auto lanes) { return bid_by<lanes()>(free, first); });
  }

  template <int kLanes>
  bool bid_by(std::vector<std::int32_t>& free, bool first) {
    std::vector<std::int32_t> left;
    left.reserve(free.size());
    std::int64_t budget = (listing_ ? 4 : 2) * static_cast<std::int64_t>(free.size()) + 8;
    tied_ = 0;
    for (std::int32_t row : free) {
      bool unread = first && !square_;
      if (first && bids_tie()) budget = 0;
      for (; row != kNone && budget-- > 0; unread = false) {
        row = place<kLanes>(row, unread, left);
        if (!legal_) return false;
      }
      if (unread && !is_legal<kLanes>(row_of(row))) return false;
      if (row != kNone) left.push_back(row);
    }
    free.swap(left);
    return true;
  }

  // Nearly all rows of a square problem have several columns of the least cost. Where a row has two or three, prices do better.
  bool bids_tie() const { return square_ && costs_.cols > kSearched && ties_ > kTies && 16 * (bids_ - ties_) < bids_; }

  // The row that lost its column and bids next, or none. One that is no better off elsewhere waits in `left`.
  template <int kLanes>
  std::int32_t place(std::int32_t row, bool unread, std::vector<std::int32_t>& left) {
    ++bids_;
    const Bid bid = best_bid<kLanes>(row, unread);
    if (!legal_) return kNone;
    // Without a second column no price is high enough: such a row takes its column only while that is free.
    if (bid.column == kNone || (bid.second == kInfinity && matching_.room[bid.column] == 0)) {
      left.push_back(row);
      return kNone;
    }
    const std::int32_t loser = matching_.first[bid.column];
    if (loser != kNone) matching_.detach(loser);
    matching_.attach(row, bid.column, bid.cost);
    const bool tie = !(bid.least < bid.second);
    ties_ += tie;
    if (bid.second < kInfinity) store_lane<kLanes>(prices_, bid.column, prices_[bid.column] - (bid.second - bid.least));
    if (loser == kNone) return kNone;
    if (!tie) return ++contests_, loser;
    left.push_back(loser);
    return ++tied_, kNone;
  }

  template <int kLanes>
  Bid best_bid(std::int32_t row, bool unread) {
    if (leaders_ && swept_[row] > 0)
      if (const Bid bid = bid_from_leaders<kLanes>(row); bid.column != kNone) return bid;
    if (listing_ && (square_ ? contests_ > kContests || swept_[row] > 0 : swept_[row] == kSweeps)) return bid_from_list(row);
    return bid_from_sweep<kLanes>(row, unread);
  }

  // The bid, if the two best columns are sure to be among the leaders of the row's last sweep and do not tie; else no column.
  template <int kLanes>
  Bid bid_from_leaders(std::int32_t i) const {
    const Leaders& leaders = leaders_[i];
    const Row<Real> row = row_of(i);
    Bid bid;
    for (int n = 0; n < 2 * kLanes; ++n) {
      if (!(leaders.reduced[n] <= leaders.floor)) continue;
      const double x = row(leaders.column[n]);
      if (x < bid.least) {
        bid.second = bid.least;
        bid.least = x, bid.column = static_cast<std::int32_t>(leaders.column[n]);
      } else if (x < bid.second) {
        bid.second = x;
      }
    }
    if (!(bid.least < bid.second && bid.second <= leaders.floor)) return {};
    bid.cost = costs_(i, bid.column);
    return bid;
  }

  template <int kLanes>
  Bid bid_from_sweep(std::int32_t i, bool unread) {
    const Row<Real> row = row_of(i);
    if ((leaders_ || listing_) && swept_[i] < kSweeps) ++swept_[i];
    auto [least, second, column, legal] = leaders_ ? two_least<kLanes, true, true>(row, &leaders_[i])
                                          : unread ? two_least<kLanes, true>(row)
                                                   : two_least<kLanes, false>(row);
    legal_ = legal;
    if (least == kInfinity) return {};
    // Of columns that tie, equal rows take different ones.
    if (!(least < second)) column = find_round<kLanes>(row, least, i % costs_.cols, matching_.open.data());
    return {static_cast<std::int32_t>(column), costs_(i, column), least, second};
  }

  bool is_legal_row(std::int64_t i) const {
    return by_widest([&](auto lanes) { return is_legal<lanes()>(row_of(i)); });
  }

  Bid bid_from_list(std::int32_t row) {
    using Entry = typename Candidates<Real>::Entry;
    Candidates<Real>& candidates = listing_->candidates;
    double least, second;
    const Entry *best, *other;
    for (bool fresh = false;; fresh = true) {
      least = second = kInfinity;
      best = other = nullptr;
      for (const Entry* e = candidates.begin(row); e != candidates.end(row) && e->reduced < second; ++e) {
        const double x = e->cost - prices_[e->column];
        if (x < least) {
          second = least, other = best;
          least = x, best = e;
        } else if (x < second) {
          second = x, other = e;
        }
      }
      if (fresh || second <= candidates.floor(row)) break;
      candidates.refill(row);
    }
    if (best == nullptr) return {};
    if (!(least < second) && other != nullptr && matching_.room[best->column] == 0) best = other;
    return {best->column, best->cost, least, second};
  }

  bool augment(std::int32_t row) {
    using End = typename ListSearch<Real>::End;
    const End end = listing_ && !too_long_ ? listing_->augment(row) : End::kTooLong;
    too_long_ = end == End::kTooLong;
    return too_long_ ? sweeping_.augment(row) : end == End::kFound;
  }

  const Costs<Real> costs_;
  const bool one_to_one_, square_;
  std::vector<double> all_prices_;
  double* const prices_;
  Matching matching_;
  DenseSearch<Real> sweeping_;
  std::optional<ListSearch<Real>> listing_;
  std::unique_ptr<Leaders[]> leaders_;  // of a row that has been swept
  std::vector<char> swept_;  // how often each row was, up to kSweeps, where there are leaders or lists
  std::int64_t bids_ = 0, contests_ = 0, ties_ = 0;  // bids, those that freed a row, those of rows with several best columns
  std::int64_t tied_ = 0;  // of this round: bids of rows with several best columns that freed a row
  std::int64_t served_ = 0;  // rows that have a column minimum
  bool legal_ = true;  // no entry seen is NaN or -inf
  bool too_long_ = false;  // a search over lists was, or would be
};

}  // namespace

template <typename Real>
bool solve_assignment(const Costs<Real>& costs, std::int64_t capacity, std::int64_t* partner, double* u, double* v) {
  Solver<Real> solver(costs, capacity);
  if (!solver.solve()) return false;
  solver.read(partner, u, v);
  return true;
}

template bool solve_assignment(const Costs<float>&, std::int64_t, std::int64_t*, double*, double*);
template bool solve_assignment(const Costs<double>&, std::int64_t, std::int64_t*, double*, double*);

}  // namespace salcr
