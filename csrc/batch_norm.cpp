// Every map crosses the memory bus as often as kernels/batch_norm.py says. Blocks of rows keep moments and sums of their own,
// which are put together in their order: the number of threads changes no bit.

#include "batch_norm.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kBlocks = 64, kFewRows = 16;  // blocks of a map, and rows of the smallest
constexpr std::int64_t kTile = 16384;                // entries that are written by one thread at a time

enum class Shortcut { none, added, normalised };

// A norm with what follows from its statistics: 1 / deviation, and that times the weight.
template <typename Real>
struct Scaled {
  Scaled(const Norm<Real>& norm, std::int64_t width, double eps) : norm(norm), inverse(width), scale(width) {
    if (norm.map == nullptr) return;
    for (std::int64_t c = 0; c < width; ++c) {
      inverse[c] = static_cast<Real>(1 / std::sqrt(norm.var[c] + eps));
      scale[c] = norm.weight[c] * inverse[c];
    }
  }
  const Norm<Real>& norm;
  std::vector<Real> inverse, scale;
};

template <typename Real>
struct Channels {
  explicit Channels(const Scaled<Real>& of)
      : map(of.norm.map), mean(of.norm.mean), scale(of.scale.data()), bias(of.norm.bias) {}
  Real centred(std::int64_t at, std::int64_t c) const { return map[at] - mean[c]; }
  Real value(std::int64_t at, std::int64_t c) const { return centred(at, c) * scale[c] + bias[c]; }
  const Real *map, *mean, *scale, *bias;
};

template <typename Real>
struct Both {
  explicit Both(const BatchNorm<Real>& norm)
      : x(norm.x, norm.width, norm.eps), of_shortcut(norm.of_shortcut, norm.width, norm.eps) {}
  Scaled<Real> x, of_shortcut;
};

std::int64_t span_of(std::int64_t rows) { return std::max(kFewRows, (rows + kBlocks - 1) / kBlocks); }

// body(first row, last row, sums) for every block of rows, with `count` numbers of each channel, which start as zeros. Then
// finish(rows of the block, sums) in the blocks' order.
template <typename Real, typename Body, typename Finish>
void in_blocks(const BatchNorm<Real>& norm, int count, Body&& body, Finish&& finish) {
  const std::int64_t span = span_of(norm.rows), numbers = count * norm.width, blocks = (norm.rows + span - 1) / span;
  std::vector<Real> sums(blocks * numbers);
  parallel_chunks(norm.rows, span, norm.threads, [&](std::int64_t begin, std::int64_t end, int) {
    body(begin, end, sums.data() + begin / span * numbers);
  });
  for (std::int64_t b = 0; b < blocks; ++b) finish(std::min(span, norm.rows - b * span), sums.data() + b * numbers);
}

// body(first row, last row) for tiles of the map, which fit a cache.
template <typename Real, typename Body>
void in_tiles(const BatchNorm<Real>& norm, Body&& body) {
  parallel_chunks(norm.rows, std::max<std::int64_t>(1, kTile / norm.width), norm.threads,
                  [&](std::int64_t begin, std::int64_t end, int) { body(begin, end); });
}

template <Shortcut shortcut, typename Real>
void apply_rows(const BatchNorm<Real>& norm, const Both<Real>& scaled, std::int64_t begin, std::int64_t end, Real* y) {
  const Channels<Real> x(scaled.x), other(scaled.of_shortcut);
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t start = row * norm.width;
#pragma omp simd
    for (std::int64_t c = 0; c < norm.width; ++c) {
      Real value = x.value(start + c, c);
      if (shortcut == Shortcut::added) value += norm.shortcut[start + c];
      if (shortcut == Shortcut::normalised) value += other.value(start + c, c);
      y[start + c] = value <= 0 ? Real(0) : value;
    }
  }
}

template <bool twice, typename Real>
Real incoming(const BatchNormGradients<Real>& of, std::int64_t at) {
  return twice ? of.gradient[at] + of.again[at] : of.gradient[at];
}

// Sums of what ReLU leaves of the gradient, and of that times each centred map.
template <Shortcut shortcut, bool twice, typename Real>
void add_rows(const BatchNorm<Real>& norm, const BatchNormGradients<Real>& of, const Both<Real>& scaled, std::int64_t begin,
              std::int64_t end, Real* total) {
  const Channels<Real> x(scaled.x), other(scaled.of_shortcut);
  Real *product = total + norm.width, *of_other = product + norm.width;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t start = row * norm.width;
#pragma omp simd
    for (std::int64_t c = 0; c < norm.width; ++c) {
      Real kept = shortcut == Shortcut::added ? of.y[start + c] : x.value(start + c, c);
      if (shortcut == Shortcut::normalised) kept += other.value(start + c, c);
      const Real sent = incoming<twice>(of, start + c);  // looked at in any case, so that no branch stops the vectors
      const Real left = kept <= 0 ? Real(0) : sent;
      if (shortcut == Shortcut::added) of.shortcut[start + c] = left;
      total[c] += left;
      product[c] += left * x.centred(start + c, c);
      if (shortcut == Shortcut::normalised) of_other[c] += left * other.centred(start + c, c);
    }
  }
}

// What the mean and the deviation send back to every entry of a map.
template <typename Real>
struct Sent {
  Sent(const NormGradients<Real>& of, const Scaled<Real>& scaled, const double* total, const double* product,
       const BatchNorm<Real>& norm)
      : mean(norm.width), slope(norm.width) {
    const double share = 1 / static_cast<double>(norm.rows);
    for (std::int64_t c = 0; c < norm.width; ++c) {
      of.bias[c] = static_cast<Real>(total[c]);
      of.weight[c] = static_cast<Real>(product[c] * scaled.inverse[c]);
      mean[c] = static_cast<Real>(total[c] * share);
      slope[c] = static_cast<Real>(product[c] * share * scaled.inverse[c] * scaled.inverse[c]);
    }
  }
  std::vector<Real> mean, slope;
};

template <Shortcut shortcut, bool twice, bool given, typename Real>
void spread_rows(const BatchNorm<Real>& norm, const BatchNormGradients<Real>& of, const Both<Real>& scaled,
                 const Real* of_mean, const Real* slope, const Real* other_slope, std::int64_t begin, std::int64_t end) {
  const Channels<Real> x(scaled.x), other(scaled.of_shortcut);
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t start = row * norm.width;
#pragma omp simd
    for (std::int64_t c = 0; c < norm.width; ++c) {
      const std::int64_t at = start + c;
      Real left = shortcut == Shortcut::added ? of.shortcut[at] : incoming<twice>(of, at);
      if (shortcut != Shortcut::added) {
        Real kept = x.value(at, c);
        if (shortcut == Shortcut::normalised) kept += other.value(at, c);
        left = kept <= 0 ? Real(0) : left;
      }
      if (!given) left -= of_mean[c];
      of.x.map[at] = x.scale[c] * (given ? left : left - x.centred(at, c) * slope[c]);
      if (shortcut == Shortcut::normalised)
        of.of_shortcut.map[at] = other.scale[c] * (given ? left : left - other.centred(at, c) * other_slope[c]);
    }
  }
}

template <Shortcut shortcut, bool twice, typename Real>
void backward(const BatchNorm<Real>& norm, const BatchNormGradients<Real>& of) {
  const Both<Real> scaled(norm);
  const std::int64_t width = norm.width;
  const int count = shortcut == Shortcut::normalised ? 3 : 2;
  std::vector<double> total(count * width);
  in_blocks(
      norm, count,
      [&](std::int64_t begin, std::int64_t end, Real* sums) {
        add_rows<shortcut, twice>(norm, of, scaled, begin, end, sums);
      },
      [&](std::int64_t, const Real* sums) {
        for (std::int64_t c = 0; c < count * width; ++c) total[c] += sums[c];
      });
  const Sent<Real> sent(of.x, scaled.x, total.data(), total.data() + width, norm);
  std::vector<Real> other_slope;
  if (shortcut == Shortcut::normalised)
    other_slope = Sent<Real>(of.of_shortcut, scaled.of_shortcut, total.data(), total.data() + 2 * width, norm).slope;
  in_tiles(norm, [&](std::int64_t begin, std::int64_t end) {
    const auto spread = of.given ? spread_rows<shortcut, twice, true, Real> : spread_rows<shortcut, twice, false, Real>;
    spread(norm, of, scaled, sent.mean.data(), sent.slope.data(), other_slope.data(), begin, end);
  });
}

template <Shortcut shortcut, typename Real>
void backward(const BatchNorm<Real>& norm, const BatchNormGradients<Real>& of) {
  of.again ? backward<shortcut, true>(norm, of) : backward<shortcut, false>(norm, of);
}

template <typename Real>
void statistics_of(const Norm<Real>& found, const BatchNorm<Real>& norm) {
  const std::int64_t width = norm.width;
  std::vector<double> mean(width), squares(width);
  double seen = 0;
  in_blocks(
      norm, 2,
      [&](std::int64_t begin, std::int64_t end, Real* running) {
        Real* squared = running + width;
        for (std::int64_t row = begin; row < end; ++row) {
          const Real* x = found.map + row * width;
          const Real inverse = Real(1) / static_cast<Real>(row - begin + 1);
#pragma omp simd
          for (std::int64_t c = 0; c < width; ++c) {
            const Real difference = x[c] - running[c];
            running[c] += difference * inverse;
            squared[c] += difference * (x[c] - running[c]);
          }
        }
      },
      [&](std::int64_t rows, const Real* of_block) {
        const double share = rows / (seen + rows);
        for (std::int64_t c = 0; c < width; ++c) {
          const double difference = of_block[c] - mean[c];
          mean[c] += difference * share;
          squares[c] += of_block[width + c] + difference * difference * seen * share;
        }
        seen += rows;
      });
  for (std::int64_t c = 0; c < width; ++c) {
    found.mean[c] = static_cast<Real>(mean[c]);
    found.var[c] = static_cast<Real>(squares[c] / seen);
  }
}

}  // namespace

template <typename Real>
void batch_norm_statistics(const BatchNorm<Real>& norm) {
  statistics_of(norm.x, norm);
  if (norm.of_shortcut.map) statistics_of(norm.of_shortcut, norm);
}

template <typename Real>
void batch_norm_relu(const BatchNorm<Real>& norm, Real* y) {
  const Both<Real> scaled(norm);
  const auto apply = norm.of_shortcut.map ? apply_rows<Shortcut::normalised, Real>
                     : norm.shortcut      ? apply_rows<Shortcut::added, Real>
                                          : apply_rows<Shortcut::none, Real>;
  in_tiles(norm, [&](std::int64_t begin, std::int64_t end) { apply(norm, scaled, begin, end, y); });
}

template <typename Real>
void batch_norm_relu_backward(const BatchNorm<Real>& norm, const BatchNormGradients<Real>& of) {
  if (norm.of_shortcut.map)
    backward<Shortcut::normalised>(norm, of);
  else
    of.shortcut ? backward<Shortcut::added>(norm, of) : backward<Shortcut::none>(norm, of);
}

template void batch_norm_statistics(const BatchNorm<float>&);
template void batch_norm_statistics(const BatchNorm<double>&);
template void batch_norm_relu(const BatchNorm<float>&, float*);
template void batch_norm_relu(const BatchNorm<double>&, double*);
template void batch_norm_relu_backward(const BatchNorm<float>&, const BatchNormGradients<float>&);
template void batch_norm_relu_backward(const BatchNorm<double>&, const BatchNormGradients<double>&);

}  // namespace salcr
