// Every map crosses the memory bus as often as kernels/batch_norm.py says: 8 times forward and backward, 11 with a shortcut. Blocks
// of rows keep moments and sums of their own, which are put together in their order: the number of threads changes no bit.

#include "batch_norm.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kBlocks = 64, kFewRows = 16;  // blocks of a map, and rows of the smallest
constexpr std::int64_t kTile = 16384;                // entries that are written by one thread at a time

template <typename Real>
struct Scaled {
  explicit Scaled(const BatchNorm<Real>& norm) : inverse(norm.width), scale(norm.width) {
    for (std::int64_t c = 0; c < norm.width; ++c) {
      inverse[c] = static_cast<Real>(1 / std::sqrt(norm.var[c] + norm.eps));
      scale[c] = norm.weight[c] * inverse[c];
    }
  }
  std::vector<Real> inverse, scale;
};

std::int64_t span_of(std::int64_t rows) { return std::max(kFewRows, (rows + kBlocks - 1) / kBlocks); }

// body(first row, last row, first, second) for every block of rows, with two numbers of each channel, which start as zeros. Then
// finish(block, first, second) in the blocks' order.
template <typename Real, typename Body, typename Finish>
void in_blocks(const BatchNorm<Real>& norm, Body&& body, Finish&& finish) {
  const std::int64_t span = span_of(norm.rows), width = norm.width, blocks = (norm.rows + span - 1) / span;
  std::vector<Real> sums(2 * blocks * width);
  parallel_chunks(norm.rows, span, norm.threads, [&](std::int64_t begin, std::int64_t end, int) {
    Real* first = sums.data() + begin / span * 2 * width;
    body(begin, end, first, first + width);
  });
  for (std::int64_t b = 0; b < blocks; ++b)
    finish(std::min(span, norm.rows - b * span), sums.data() + b * 2 * width, sums.data() + (b * 2 + 1) * width);
}

// body(first row, last row) for tiles of the map, which fit a cache.
template <typename Real, typename Body>
void in_tiles(const BatchNorm<Real>& norm, Body&& body) {
  parallel_chunks(norm.rows, std::max<std::int64_t>(1, kTile / norm.width), norm.threads,
                  [&](std::int64_t begin, std::int64_t end, int) { body(begin, end); });
}

template <bool shortcut, typename Real>
void apply_rows(const BatchNorm<Real>& norm, const Real* scale, std::int64_t begin, std::int64_t end, Real* y) {
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t start = row * norm.width;
#pragma omp simd
    for (std::int64_t c = 0; c < norm.width; ++c) {
      Real value = (norm.x[start + c] - norm.mean[c]) * scale[c] + norm.bias[c];
      if (shortcut) value += norm.shortcut[start + c];
      y[start + c] = value <= 0 ? Real(0) : value;
    }
  }
}

template <bool twice, typename Real>
Real incoming(const BatchNormGradients<Real>& of, std::int64_t at) {
  return twice ? of.gradient[at] + of.again[at] : of.gradient[at];
}

// Sums of what ReLU leaves of the gradient, and of that times the centred x.
template <bool shortcut, bool twice, typename Real>
void add_rows(const BatchNorm<Real>& norm, const BatchNormGradients<Real>& of, const Real* scale, std::int64_t begin,
              std::int64_t end, Real* total, Real* product) {
  const Real *mean = norm.mean, *bias = norm.bias;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t start = row * norm.width;
#pragma omp simd
    for (std::int64_t c = 0; c < norm.width; ++c) {
      const Real centred = norm.x[start + c] - mean[c];
      const Real kept = shortcut ? of.y[start + c] : centred * scale[c] + bias[c];
      const Real sent = incoming<twice>(of, start + c);  // looked at in any case, so that no branch stops the vectors
      const Real left = kept <= 0 ? Real(0) : sent;
      if (shortcut) of.shortcut[start + c] = left;
      total[c] += left;
      product[c] += left * centred;
    }
  }
}

template <bool shortcut, bool twice, bool given, typename Real>
void spread_rows(const BatchNorm<Real>& norm, const BatchNormGradients<Real>& of, const Real* scale, const Real* of_mean,
                 const Real* slope, std::int64_t begin, std::int64_t end) {
  const Real *mean = norm.mean, *bias = norm.bias;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t start = row * norm.width;
#pragma omp simd
    for (std::int64_t c = 0; c < norm.width; ++c) {
      const Real centred = norm.x[start + c] - mean[c];
      Real left = shortcut ? of.shortcut[start + c] : incoming<twice>(of, start + c);
      if (!shortcut) left = centred * scale[c] + bias[c] <= 0 ? Real(0) : left;
      of.x[start + c] = scale[c] * (given ? left : left - of_mean[c] - centred * slope[c]);
    }
  }
}

template <bool shortcut, bool twice, typename Real>
void backward(const BatchNorm<Real>& norm, const BatchNormGradients<Real>& of) {
  const Scaled<Real> scaled(norm);
  const std::int64_t width = norm.width;
  std::vector<double> total(width), product(width);
  in_blocks(
      norm,
      [&](std::int64_t begin, std::int64_t end, Real* first, Real* second) {
        add_rows<shortcut, twice>(norm, of, scaled.scale.data(), begin, end, first, second);
      },
      [&](std::int64_t, const Real* first, const Real* second) {
        for (std::int64_t c = 0; c < width; ++c) total[c] += first[c], product[c] += second[c];
      });
  std::vector<Real> of_mean(width), slope(width);
  const double share = 1 / static_cast<double>(norm.rows);
  for (std::int64_t c = 0; c < width; ++c) {
    of.bias[c] = static_cast<Real>(total[c]);
    of.weight[c] = static_cast<Real>(product[c] * scaled.inverse[c]);
    of_mean[c] = static_cast<Real>(total[c] * share);
    slope[c] = static_cast<Real>(product[c] * share * scaled.inverse[c] * scaled.inverse[c]);
  }
  in_tiles(norm, [&](std::int64_t begin, std::int64_t end) {
    const Real* scale = scaled.scale.data();
    if (of.given)
      spread_rows<shortcut, twice, true>(norm, of, scale, of_mean.data(), slope.data(), begin, end);
    else
      spread_rows<shortcut, twice, false>(norm, of, scale, of_mean.data(), slope.data(), begin, end);
  });
}

}  // namespace

template <typename Real>
void batch_norm_statistics(const BatchNorm<Real>& norm) {
  const std::int64_t width = norm.width;
  std::vector<double> mean(width), squares(width);
  double seen = 0;
  in_blocks(
      norm,
      [&](std::int64_t begin, std::int64_t end, Real* running, Real* squared) {
        for (std::int64_t row = begin; row < end; ++row) {
          const Real* x = norm.x + row * width;
          const Real inverse = Real(1) / static_cast<Real>(row - begin + 1);
#pragma omp simd
          for (std::int64_t c = 0; c < width; ++c) {
            const Real difference = x[c] - running[c];
            running[c] += difference * inverse;
            squared[c] += difference * (x[c] - running[c]);
          }
        }
      },
      [&](std::int64_t rows, const Real* of_block, const Real* squared) {
        const double share = rows / (seen + rows);
        for (std::int64_t c = 0; c < width; ++c) {
          const double difference = of_block[c] - mean[c];
          mean[c] += difference * share;
          squares[c] += squared[c] + difference * difference * seen * share;
        }
        seen += rows;
      });
  for (std::int64_t c = 0; c < width; ++c) {
    norm.mean[c] = static_cast<Real>(mean[c]);
    norm.var[c] = static_cast<Real>(squares[c] / seen);
  }
}

template <typename Real>
void batch_norm_relu(const BatchNorm<Real>& norm, Real* y) {
  const Scaled<Real> scaled(norm);
  in_tiles(norm, [&](std::int64_t begin, std::int64_t end) {
    norm.shortcut ? apply_rows<true>(norm, scaled.scale.data(), begin, end, y)
                  : apply_rows<false>(norm, scaled.scale.data(), begin, end, y);
  });
}

template <typename Real>
void batch_norm_relu_backward(const BatchNorm<Real>& norm, const BatchNormGradients<Real>& of) {
  const bool twice = of.again != nullptr;
  if (of.shortcut)
    twice ? backward<true, true>(norm, of) : backward<true, false>(norm, of);
  else
    twice ? backward<false, true>(norm, of) : backward<false, false>(norm, of);
}

template void batch_norm_statistics(const BatchNorm<float>&);
template void batch_norm_statistics(const BatchNorm<double>&);
template void batch_norm_relu(const BatchNorm<float>&, float*);
template void batch_norm_relu(const BatchNorm<double>&, double*);
template void batch_norm_relu_backward(const BatchNorm<float>&, const BatchNormGradients<float>&);
template void batch_norm_relu_backward(const BatchNorm<double>&, const BatchNormGradients<double>&);

}  // namespace salcr
