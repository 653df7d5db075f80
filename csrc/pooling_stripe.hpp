// Loops over the cells of a stripe: `cells` is [count, width], rows of `width`, weights and sums one array a query.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

namespace salcr::stripe {

using Index = std::int64_t;

// out[n][j] = rows[n] times cell j. In double, as all that softmax sees: a score's error is every weight's error.
template <int N, typename Real>
void dots(const Real* cells, Index count, Index width, const Real* const* rows, double* const* out) {
  constexpr Index lanes = 8;
  const Index whole = width / lanes * lanes;
  for (Index j = 0; j < count; ++j) {
    const Real* cell = cells + j * width;
    double sum[N][lanes] = {};
    for (Index d = 0; d < whole; d += lanes)
      for (int n = 0; n < N; ++n)
#pragma omp simd
        for (Index l = 0; l < lanes; ++l) sum[n][l] += double(rows[n][d + l]) * double(cell[d + l]);
    for (int n = 0; n < N; ++n) {
      double total = 0;
      for (Index l = 0; l < lanes; ++l) total += sum[n][l];
      for (Index d = whole; d < width; ++d) total += double(rows[n][d]) * double(cell[d]);
      out[n][j] = total;
    }
  }
}

// out[n] (+)= sum over cells of weights[n] times cell.
template <int N, bool add, typename Real>
void weighted_sums(const Real* cells, Index count, Index width, Real* const* weights, Real* const* out) {
  constexpr Index block = 256;
  for (Index begin = 0; begin < width; begin += block) {
    const Index length = std::min(block, width - begin);
    Real sum[N][block] = {};
    for (Index j = 0; j < count; ++j) {
      const Real* cell = cells + j * width + begin;
      for (int n = 0; n < N; ++n) {
        const Real weight = weights[n][j];
#pragma omp simd
        for (Index d = 0; d < length; ++d) sum[n][d] += weight * cell[d];
      }
    }
    for (int n = 0; n < N; ++n)
      for (Index d = 0; d < length; ++d) out[n][begin + d] = add ? out[n][begin + d] + sum[n][d] : sum[n][d];
  }
}

// cells += sum over n of weights[n] times rows[n].
template <int N, typename Real>
void spread(Real* cells, Index count, Index width, const Real* const* weights, const Real* const* rows) {
  constexpr Index block = 1024;
  for (Index begin = 0; begin < width; begin += block) {
    const Index length = std::min(block, width - begin);
    for (Index j = 0; j < count; ++j) {
      Real* cell = cells + j * width + begin;
      Real weight[N];
      const Real* row[N];
      for (int n = 0; n < N; ++n) weight[n] = weights[n][j], row[n] = rows[n] + begin;
#pragma omp simd
      for (Index d = 0; d < length; ++d) {
        Real sum = cell[d];
        for (int n = 0; n < N; ++n) sum += weight[n] * row[n][d];
        cell[d] = sum;
      }
    }
  }
}

// weights = softmax(values), which are overwritten.
template <typename Real>
void softmax(double* values, Index count, Real* weights) {
  const double top = *std::max_element(values, values + count);
  double sum = 0;
  for (Index j = 0; j < count; ++j) sum += values[j] = std::exp(values[j] - top);
  for (Index j = 0; j < count; ++j) weights[j] = Real(values[j] / sum);
}

// Gradient of softmax's input in place of its output's.
template <typename Real>
void softmax_backward(const Real* weights, double* gradient, Index count) {
  double mean = 0, sum = 0;  // the weights add up to one but for rounding
  for (Index j = 0; j < count; ++j) mean += weights[j] * gradient[j], sum += weights[j];
  for (Index j = 0; j < count; ++j) gradient[j] = weights[j] * (gradient[j] - mean / sum);
}

// weights = sigmoid(scores) / their sum, also where every sigmoid underflows. The scores are overwritten.
template <typename Real>
void token_weights(double* scores, Index count, Real* weights) {
  for (Index j = 0; j < count; ++j) scores[j] = std::min(scores[j], 0.0) - std::log1p(std::exp(-std::abs(scores[j])));
  softmax(scores, count, weights);
}

// out = mean over cells of cell^power.
template <typename Real>
void power_means(const Real* cells, Index count, Index width, double power, Real* out) {
  std::fill_n(out, width, Real(0));
  for (Index j = 0; j < count; ++j) {
    const Real* cell = cells + j * width;
    if (power == 3) {
#pragma omp simd
      for (Index d = 0; d < width; ++d) out[d] += cell[d] * cell[d] * cell[d];
    } else {
      for (Index d = 0; d < width; ++d) out[d] += std::pow(cell[d], Real(power));
    }
  }
  for (Index d = 0; d < width; ++d) out[d] /= Real(count);
}

// Gradient of power_means: out = gradient * power * cell^(power - 1) / count.
template <typename Real>
void power_means_backward(const Real* cells, Index count, Index width, double power, const Real* gradient, Real* out) {
  const Real factor = Real(power) / Real(count);
  for (Index j = 0; j < count; ++j) {
    const Real* cell = cells + j * width;
    Real* row = out + j * width;
    if (power == 3) {
#pragma omp simd
      for (Index d = 0; d < width; ++d) row[d] = factor * gradient[d] * (cell[d] * cell[d]);
    } else {
      for (Index d = 0; d < width; ++d) row[d] = factor * gradient[d] * std::pow(cell[d], Real(power - 1));
    }
  }
}

// to [columns, rows] = from [rows, columns].
template <typename Real>
void transpose(const Real* from, Index rows, Index columns, Real* to) {
  constexpr Index block = 16;
  for (Index r = 0; r < rows; r += block)
    for (Index c = 0; c < columns; c += block)
      for (Index i = r; i < std::min(rows, r + block); ++i)
        for (Index j = c; j < std::min(columns, c + block); ++j) to[j * rows + i] = from[i * columns + j];
}

}  // namespace salcr::stripe
