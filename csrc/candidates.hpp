#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "assignment.hpp"

namespace salcr {

// The cheapest columns of each row by reduced cost c_ij - v_j, found in one sweep of the row and then good for many visits:
// prices v only fall, so reduced costs only rise, and the columns that a list leaves out stay above its floor.
template <typename Real>
class Candidates {
 public:
  struct Entry {
    double reduced;  // when the list was made: a lower bound ever after
    Real cost;       // with its sign
    std::int32_t column;
  };

  Candidates(const Costs<Real>& costs, const double* prices);

  // The list of row i, ascending in `reduced`. It is empty before the first refill(i).
  const Entry* begin(std::int64_t i) const { return entries_.get() + i * kKept; }
  const Entry* end(std::int64_t i) const { return begin(i) + counts_[i]; }

  // No column outside the list of row i has a smaller reduced cost; -inf before the first refill(i).
  double floor(std::int64_t i) const { return floors_[i]; }

  // Empties all lists, after which prices may be any.
  void clear();

  // Makes the list of row i anew at the present prices and returns the reduced costs of all its columns.
  const double* refill(std::int64_t i);

 private:
  static constexpr int kKept = 16, kLanes = 32;

  double sweep(const Real* row);

  Costs<Real> costs_;
  const double* prices_;
  std::vector<double> reduced_, floors_;
  std::unique_ptr<Entry[]> entries_;  // [rows, kKept]; easy problems never touch them
  std::vector<std::int32_t> counts_;
};

}  // namespace salcr
