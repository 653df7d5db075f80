#pragma once
#include <cstdint>

namespace salcr {

// Maps are `rows` rows of `width` channels. Statistics, parameters and sums have `width` entries.
template <typename Real>
struct BatchNorm {
  const Real *x, *weight, *bias, *shortcut;  // shortcut: null where there is none
  Real *mean, *var;
  std::int64_t rows, width;
  double eps;
  int threads;
};

// mean and var of x.
template <typename Real>
void batch_norm_statistics(const BatchNorm<Real>& norm);

// y = relu((x - mean) / deviation * weight + bias + shortcut).
template <typename Real>
void batch_norm_relu(const BatchNorm<Real>& norm, Real* y);

template <typename Real>
struct BatchNormGradients {
  const Real *gradient, *again;  // of y, added; again: null where there is one
  const Real* y;
  Real *x, *weight, *bias, *shortcut;
  bool given;  // mean and var are numbers and no statistics of x
};

template <typename Real>
void batch_norm_relu_backward(const BatchNorm<Real>& norm, const BatchNormGradients<Real>& of);

}  // namespace salcr
