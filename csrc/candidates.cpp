// The lists are what makes the solver fast: a row is swept as a whole only when its list says nothing any more. A sweep reads
// the row once, leaves the reduced costs in a buffer that stays in L1 or L2, and finds the kept columns in a second run over that
// buffer which looks closer only at blocks that hold one.

#include "candidates.hpp"

#include <algorithm>

#include "each_isa.hpp"

namespace salcr {

template <typename Real>
Candidates<Real>::Candidates(const Costs<Real>& costs, const double* prices)
    : costs_(costs),
      prices_(prices),
      reduced_((costs.cols + kLanes - 1) / kLanes * kLanes, kInfinity),
      floors_(costs.rows, -kInfinity),
      entries_(new Entry[costs.rows * kKept]),
      counts_(costs.rows, 0) {}

template <typename Real>
void Candidates<Real>::clear() {
  std::fill(floors_.begin(), floors_.end(), -kInfinity);
  std::fill(counts_.begin(), counts_.end(), 0);
}

// Fills reduced_ and returns a value that at least kKept columns do not exceed (inf if there may be fewer).
template <typename Real>
double Candidates<Real>::sweep(const Real* row) {
  double* const reduced = reduced_.data();
  const double sign = costs_.sign;
  double low[kLanes];
  std::fill_n(low, kLanes, kInfinity);
  const std::int64_t whole = costs_.cols / kLanes * kLanes;
  for (std::int64_t j = 0; j < whole; j += kLanes)
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
      const double x = sign * row[j + l] - prices_[j + l];
      reduced[j + l] = x;
      low[l] = x < low[l] ? x : low[l];
    }
  for (std::int64_t j = whole; j < costs_.cols; ++j) {
    reduced[j] = sign * row[j] - prices_[j];
    low[j - whole] = std::min(low[j - whole], reduced[j]);
  }
  std::nth_element(low, low + kKept - 1, low + kLanes);
  return low[kKept - 1];
}

template <typename Real>
SALCR_FOR_EACH_ISA const double* Candidates<Real>::refill(std::int64_t i) {
  const Real* const row = costs_.data + i * costs_.stride;
  double limit = sweep(row);
  Entry* const kept = entries_.get() + i * kKept;
  int count = 0;
  const auto keep = [&](double reduced, std::int64_t column) {
    if (count == kKept && !(reduced < kept[kKept - 1].reduced)) {
      limit = std::min(limit, reduced);
      return;
    }
    if (count == kKept) limit = std::min(limit, kept[kKept - 1].reduced);
    int at = count < kKept ? count++ : kKept - 1;
    for (; at > 0 && reduced < kept[at - 1].reduced; --at) kept[at] = kept[at - 1];
    kept[at] = {reduced, static_cast<Real>(costs_.sign * row[column]), static_cast<std::int32_t>(column)};
  };
  // Equal costs fill the list before the row ends: each row begins elsewhere, so that all do not list the same columns.
  const std::int64_t blocks = static_cast<std::int64_t>(reduced_.size()) / kLanes;
  std::int64_t block = i % blocks;
  for (std::int64_t n = 0; n < blocks; ++n, block = block + 1 == blocks ? 0 : block + 1) {
    const double* const r = reduced_.data() + block * kLanes;
    int hits = 0;
#pragma omp simd reduction(+ : hits)
    for (int l = 0; l < kLanes; ++l) hits += r[l] <= limit;
    if (hits == 0) continue;
    for (int l = 0; l < kLanes; ++l)
      if (r[l] <= limit && r[l] < kInfinity) keep(r[l], block * kLanes + l);
  }
  counts_[i] = count;
  floors_[i] = limit;
  return reduced_.data();
}

template class Candidates<float>;
template class Candidates<double>;

}  // namespace salcr
