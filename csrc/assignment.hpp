#pragma once
#include <cstdint>
#include <limits>

namespace salcr {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Costs [rows, cols] in place: entry (i, j) is sign * data[i * stride + j], infinite where the pair is forbidden.
template <typename Real>
struct Costs {
  const Real* data;
  std::int64_t rows, cols, stride;
  double sign;

  const Real* row(std::int64_t i) const { return data + i * stride; }
  double operator()(std::int64_t i, std::int64_t j) const { return sign * row(i)[j]; }
};

// The cheapest assignment that gives every row a column and no column to more than `capacity` rows; rows <= capacity * cols.
// Writes the column of each row and, where they are not null, the duals u [rows] and v [cols]: u_i + v_j <= cost, equal on the
// assignment, v_j <= 0 if rows < capacity * cols, and then 0 for each column that could take another row. False if forbidden
// pairs leave no assignment, or an entry is NaN or -inf.
template <typename Real>
bool solve_assignment(const Costs<Real>& costs, std::int64_t capacity, std::int64_t* partner, double* u, double* v);

}  // namespace salcr
