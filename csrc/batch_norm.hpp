#pragma once
#include <cstdint>

namespace salcr {

// Maps are `rows` rows of `width` channels. Statistics, parameters and sums have `width` entries.
template <typename Real>
struct Norm {
  const Real *map = nullptr, *weight = nullptr, *bias = nullptr;
  Real *mean = nullptr, *var = nullptr;
};

template <typename Real>
struct BatchNorm {
  Norm<Real> x, of_shortcut;  // of_shortcut: its map is null where the shortcut has no norm, or is not there
  const Real* shortcut;       // which has no norm; null where there is none
  std::int64_t rows, width;
  double eps;
  int threads;
};

// mean and var of the maps that have a norm.
template <typename Real>
void batch_norm_statistics(const BatchNorm<Real>& norm);

// y = relu((x - mean) / deviation * weight + bias + shortcut), where the shortcut may have a norm, too.
template <typename Real>
void batch_norm_relu(const BatchNorm<Real>& norm, Real* y);

template <typename Real>
struct NormGradients {
  Real *map = nullptr, *weight = nullptr, *bias = nullptr;
};

template <typename Real>
struct BatchNormGradients {
  const Real *gradient, *again;  // of y, added; again: null where there is one
  const Real* y;
  NormGradients<Real> x, of_shortcut;
  Real* shortcut;  // which has no norm; null where there is none
  bool given;      // mean and var are numbers and no statistics of the maps
};

template <typename Real>
void batch_norm_relu_backward(const BatchNorm<Real>& norm, const BatchNormGradients<Real>& of);

}  // namespace salcr
