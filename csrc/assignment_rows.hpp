#pragma once
#include <cstdint>

#include "assignment.hpp"

namespace salcr {

// Row i of the costs c_j, whose reduced costs are c_j - v_j with the prices v.
template <typename Real>
struct Row {
  const Real* cost;
  const double* prices;
  std::int64_t cols;
  double sign;

  Row(const Costs<Real>& costs, const double* its_prices, std::int64_t i)
      : cost(costs.row(i)), prices(its_prices), cols(costs.cols), sign(costs.sign) {}

  double operator()(std::int64_t j) const { return sign * cost[j] - prices[j]; }
};

struct TwoLeast {
  double least, second;  // equal where two columns tie
  std::int64_t column;   // one of the least
};

struct Nearest {
  double distance, with_room;  // the least of all open columns, and of those with room
  std::int64_t column;         // one at the distance
};

// What a solver does with one row, for each instruction set (assignment_rows.cpp). Arrays over columns are padded for its lanes.

// No entry is NaN or -inf.
template <typename Real>
bool is_legal(Row<Real> row);

// Where a cost of row i, less `shift`, is below the minimum of its column so far, it becomes that, and i the cheapest row.
// Returns whether no entry is NaN or -inf.
template <typename Real>
bool lower_minima(const Costs<Real>& costs, std::int64_t i, double shift, double* minima, std::int64_t* cheapest);

// The two least reduced costs.
template <typename Real>
TwoLeast two_least(Row<Real> row);

// The first column in [begin, end) of this reduced cost, and with room if that is not null, or -1.
template <typename Real>
std::int64_t find_equal(Row<Real> row, double value, std::int64_t begin, std::int64_t end, const std::int64_t* room);

// Sets bit j where column j has this reduced cost.
template <typename Real>
void mark_equal(Row<Real> row, double value, std::uint64_t* bits);

// A column is `offset` plus its reduced cost away through this row: its distance, where that is nearer, and `from` its source.
// A distance of -inf is final, its column no longer open.
template <typename Real>
Nearest relax(Row<Real> row, double offset, std::int64_t from, const std::int64_t* room, double* distance, std::int64_t* source);

// Of a search's arrays: the first of [begin, end) that is `value`, or -1.
std::int64_t find_value(const double* x, double value, std::int64_t begin, std::int64_t end);

// The least of those with room.
double least_with_room(const double* x, const std::int64_t* room, std::int64_t count);

// The first of [begin, end) where offset + x[j] is below distance[j] and below bound, or -1.
std::int64_t find_nearer(const double* x, double offset, const double* distance, double bound, std::int64_t begin,
                         std::int64_t end);

}  // namespace salcr
