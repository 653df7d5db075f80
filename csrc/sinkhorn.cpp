// Sinkhorn iterations with absorbed potentials.
//
// A careful step works with logarithms: two exponentials an entry, right whatever lambda * cost is. It leaves behind the kernel
// exp(f - lambda * cost - top), f the logarithm of alpha and top chosen so that the largest entry of each column is 1, in the
// place of the plan. A quick step multiplies that kernel by factors of the rows and columns and reads it once: a row's dot product
// gives its factor, and while it is in cache the row is added to the column sums. What has underflowed in the kernel, entries below
// 1e-38, stays without weight as long as no factor has grown beyond exp(20); a quick step after which one has is taken back and
// done carefully. The first step is careful, and with lambda * cost up to the hundreds it is mostly the only one.
//
// Sums are in double, over chunks of rows that do not depend on the number of threads and are added up in their order.

#include "sinkhorn.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "extrema.hpp"
#include "parallel.hpp"
#include "quick_exp.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kChunk = 128;
const double kLimit = std::exp(20.0);

template <typename Real>
class Problem {
 public:
  Problem(const Real* cost, std::int64_t rows, std::int64_t columns, double lam, Real* kernel, int threads)
      : cost_(cost),
        kernel_(kernel),
        rows_(rows),
        columns_(columns),
        lam_(lam),
        threads_(threads),
        smallest_(rows),
        row_log_(rows),
        row_factor_(rows),
        top_(columns, 0),
        factor_(columns, 1.0 / columns),
        next_(columns),
        partial_((rows + kChunk - 1) / kChunk * columns) {
    each_row([&](std::int64_t i, double*) {
      const Real* row = cost_ + i * columns_;
      Real smallest = row[0];
#pragma omp simd reduction(min : smallest)
      for (std::int64_t j = 0; j < columns_; ++j) smallest = smaller(smallest, row[j]);
      smallest_[i] = smallest;
    });
  }

  void solve(const SinkhornOptions& options) {
    for (std::int64_t step = 0; step < options.max_iter; ++step) {
      double change = 0;
      if (step == 0 || !quick_step(&change)) change = careful_step();
      if (step % options.check_every == 0 && change <= options.tol) break;
    }
    each_row([&](std::int64_t i, double*) {
      Real* row = kernel_ + i * columns_;
      for (std::int64_t j = 0; j < columns_; ++j) row[j] = static_cast<Real>(row_factor_[i] * row[j] * factor_[j]);
    });
  }

 private:
  // body(row, sums of the row's chunk), chunk after chunk.
  template <typename Body>
  void each_row(Body body) {
    parallel_chunks(rows_, kChunk, threads_, [&](std::int64_t begin, std::int64_t end, int) {
      double* sums = partial_.data() + begin / kChunk * columns_;
      for (std::int64_t i = begin; i < end; ++i) body(i, sums);
    });
  }

  // next_ = what makes the columns sum to 1 / columns, from the chunks' sums of rows.
  void divide_columns() {
    std::fill(next_.begin(), next_.end(), 0.0);
    for (std::size_t at = 0; at < partial_.size(); at += columns_)
      for (std::int64_t j = 0; j < columns_; ++j) next_[j] += partial_[at + j];
    for (double& sum : next_) sum = 1 / (columns_ * sum);
  }

  // One iteration by the kernel, unless a factor of it is out of bounds: then nothing has changed. `change` is the sum of
  // |beta / new beta - 1| over the columns.
  bool quick_step(double* change) {
    std::fill(partial_.begin(), partial_.end(), 0.0);
    each_row([&](std::int64_t i, double* sums) {
      const Real* row = kernel_ + i * columns_;
      const double* factor = factor_.data();
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t j = 0; j < columns_; ++j) sum += row[j] * factor[j];
      const double own = row_factor_[i] = 1 / (rows_ * sum);
#pragma omp simd
      for (std::int64_t j = 0; j < columns_; ++j) sums[j] += own * row[j];
    });
    divide_columns();
    for (const double factor : row_factor_)
      if (!(factor <= kLimit)) return false;
    for (const double factor : next_)
      if (!(factor * columns_ <= kLimit)) return false;
    for (std::int64_t j = 0; j < columns_; ++j) *change += std::abs(factor_[j] / next_[j] - 1);
    factor_.swap(next_);
    return true;
  }

  // The same with logarithms; makes the kernel anew.
  double careful_step() {
    std::vector<double> log_beta(columns_);
    for (std::int64_t j = 0; j < columns_; ++j) log_beta[j] = std::log(factor_[j]) - top_[j];
    std::fill(partial_.begin(), partial_.end(), -std::numeric_limits<double>::infinity());
    each_row([&](std::int64_t i, double* tops) {
      const Real* cost = cost_ + i * columns_;
      const double* logs = log_beta.data();
      const double smallest = smallest_[i], lam = lam_;
      double high = -std::numeric_limits<double>::infinity(), sum = 0;
#pragma omp simd reduction(max : high)
      for (std::int64_t j = 0; j < columns_; ++j) high = larger(high, logs[j] - lam * (cost[j] - smallest));
#pragma omp simd reduction(+ : sum)
      for (std::int64_t j = 0; j < columns_; ++j)
        sum += quick_exp(static_cast<Real>(logs[j] - lam * (cost[j] - smallest) - high));
      const double log_alpha = row_log_[i] = -std::log(rows_ * sum) - high;
#pragma omp simd
      for (std::int64_t j = 0; j < columns_; ++j) tops[j] = larger(tops[j], log_alpha - lam * (cost[j] - smallest));
    });
    std::fill(top_.begin(), top_.end(), -std::numeric_limits<double>::infinity());
    for (std::size_t at = 0; at < partial_.size(); at += columns_)
      for (std::int64_t j = 0; j < columns_; ++j) top_[j] = std::max(top_[j], partial_[at + j]);
    std::fill(partial_.begin(), partial_.end(), 0.0);
    each_row([&](std::int64_t i, double* sums) {
      const Real* cost = cost_ + i * columns_;
      Real* row = kernel_ + i * columns_;
      const double log_alpha = row_log_[i], smallest = smallest_[i], lam = lam_;
      const double* top = top_.data();
#pragma omp simd
      for (std::int64_t j = 0; j < columns_; ++j) {
        row[j] = quick_exp(static_cast<Real>(log_alpha - lam * (cost[j] - smallest) - top[j]));
        sums[j] += row[j];
      }
    });
    divide_columns();
    factor_.swap(next_);
    std::fill(row_factor_.begin(), row_factor_.end(), 1.0);
    double change = 0;
    for (std::int64_t j = 0; j < columns_; ++j)
      change += std::abs(std::expm1(log_beta[j] - (std::log(factor_[j]) - top_[j])));
    return change;
  }

  const Real* cost_;
  Real* kernel_;
  std::int64_t rows_, columns_;
  double lam_;
  int threads_;
  std::vector<double> smallest_, row_log_;   // of each row: its smallest cost, and the logarithm of alpha in the kernel
  std::vector<double> row_factor_;           // alpha over what of it is in the kernel
  std::vector<double> top_, factor_, next_;  // beta = factor * exp(-top)
  std::vector<double> partial_;              // [chunks, columns]
};

}  // namespace

template <typename Real>
void sinkhorn(const Real* cost, std::int64_t problems, std::int64_t rows, std::int64_t columns,
              const SinkhornOptions& options, Real* plan, int threads) {
  const int inner = problems > 1 ? 1 : threads;
  parallel_chunks(problems, 1, threads, [&](std::int64_t problem, std::int64_t, int) {
    const std::int64_t start = problem * rows * columns;
    Problem<Real>(cost + start, rows, columns, options.lam, plan + start, inner).solve(options);
  });
}

template void sinkhorn(const float*, std::int64_t, std::int64_t, std::int64_t, const SinkhornOptions&, float*, int);
template void sinkhorn(const double*, std::int64_t, std::int64_t, std::int64_t, const SinkhornOptions&, double*, int);

}  // namespace salcr
