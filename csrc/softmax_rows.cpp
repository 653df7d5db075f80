// What the contrasts do with a block of products between two matrix products (docs/method.md, "Cluster contrast").
//
// A row of logits is read from memory once, for its maximum; what follows meets it in cache: the exponentials less that
// maximum, in place, their sum, and the division by it. The search finds the k + 1 largest by the maxima of groups of
// kGroup entries: the (k+1)-th largest of these is at most the (k+1)-th largest entry, so that only the k groups or fewer
// whose maximum is above it are looked at again. Rows are independent; a row's sums are taken in an order that depends on its
// length only.

#include "softmax_rows.hpp"

#include <cstring>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "parallel.hpp"
#include "rows.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kGroup = 16;  // entries of a group, kLanes apart
constexpr std::int64_t kLanes = 16;  // groups of a segment
constexpr std::int64_t kSegment = kGroup * kLanes;
constexpr std::int64_t kRows = 8;    // rows that a thread takes at a time

// exp(x) for x <= 0, as a polynomial that loops can be vectorised with: within 1.1 units in the last place.
inline float exp_negative(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
  x = x < -87.0f ? -87.0f : x;
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  std::int32_t bits, scale;
  std::memcpy(&bits, &shifted, sizeof bits);
  scale = static_cast<std::int32_t>((static_cast<std::uint32_t>(bits) + 127u) << 23);
  float power;
  std::memcpy(&power, &scale, sizeof power);
  return p * power;
}

inline double exp_negative(double x) { return std::exp(x); }

// Largest product of each group of a row into `tops`; returns the largest of all. NaN counts as the smallest.
template <typename Real>
Real group_tops(const Real* row, std::int64_t columns, std::vector<Real>& tops) {
  constexpr Real kLeast = -std::numeric_limits<Real>::infinity();
  tops.assign((columns + kSegment - 1) / kSegment * kLanes, kLeast);
  for (std::int64_t start = 0; start < columns; start += kSegment) {
    Real* top = tops.data() + start / kSegment * kLanes;
    const std::int64_t count = std::min(kSegment, columns - start);
    std::int64_t c = 0;
    for (; c + kLanes <= count; c += kLanes) {
#pragma omp simd
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        const Real value = row[start + c + lane];
        top[lane] = value > top[lane] ? value : top[lane];
      }
    }
    for (std::int64_t lane = 0; c + lane < count; ++lane) top[lane] = std::max(top[lane], row[start + c + lane]);
  }
  Real high = kLeast;
  for (Real top : tops) high = std::max(high, top);
  return high;
}

template <typename Real>
Real row_max(const Real* row, std::int64_t columns) {
  Real high = -std::numeric_limits<Real>::infinity();
#pragma omp simd reduction(max : high)
  for (std::int64_t c = 0; c < columns; ++c) high = row[c] > high ? row[c] : high;
  return high;
}

// The entries of a row strictly above the (k+1)-th largest, ascending and -1 padded, from the maxima of its groups. NaN and
// minus infinity are never among them.
template <typename Real>
class Selection {
 public:
  void write(const Real* row, std::int64_t columns, const std::vector<Real>& tops, std::int64_t k,
             std::int64_t* indices) {
    Real bound = -std::numeric_limits<Real>::infinity();
    if (k < static_cast<std::int64_t>(tops.size())) {
      ordered_ = tops;
      std::nth_element(ordered_.begin(), ordered_.begin() + k, ordered_.end(), std::greater<Real>());
      bound = ordered_[k];
    }
    found_.clear();
    for (std::size_t group = 0; group < tops.size(); ++group) {
      if (!(tops[group] > bound)) continue;
      const std::int64_t first = static_cast<std::int64_t>(group) / kLanes * kSegment + group % kLanes;
      for (std::int64_t c = first; c < std::min(columns, first + kSegment); c += kLanes)
        if (row[c] > bound) found_.emplace_back(row[c], c);
    }
    if (static_cast<std::int64_t>(found_.size()) > k) {
      std::nth_element(found_.begin(), found_.begin() + k, found_.end(), std::greater<std::pair<Real, std::int64_t>>());
      const Real next = found_[k].first;
      found_.erase(std::remove_if(found_.begin(), found_.end(), [=](const auto& entry) { return !(entry.first > next); }),
                   found_.end());
    }
    for (std::size_t n = 0; n < found_.size(); ++n) indices[n] = found_[n].second;
    std::sort(indices, indices + found_.size());
    std::fill(indices + found_.size(), indices + k, -1);
  }

 private:
  std::vector<Real> ordered_;
  std::vector<std::pair<Real, std::int64_t>> found_;
};

template <typename Real>
double exponential_sum(const Real* row, std::int64_t columns, Real high, Real scale) {
  return row_sum<Real>(columns, [=](std::int64_t c) { return exp_negative((row[c] - high) * scale); });
}

// The same, the exponentials left in the row.
template <typename Real>
double into_exponentials(Real* row, std::int64_t columns, Real high, Real scale) {
  return row_sum<Real>(columns, [=](std::int64_t c) { return row[c] = exp_negative((row[c] - high) * scale); });
}

template <typename Real>
void multiply(Real* row, std::int64_t columns, Real factor) {
#pragma omp simd
  for (std::int64_t c = 0; c < columns; ++c) row[c] *= factor;
}

// row = (row * share - wanted) * weight.
template <typename Real>
void subtract_scaled(Real* __restrict__ row, const Real* __restrict__ wanted, std::int64_t columns, Real share,
                     Real weight) {
#pragma omp simd
  for (std::int64_t c = 0; c < columns; ++c) row[c] = (row[c] * share - wanted[c]) * weight;
}

template <typename Real>
double mass(const Real* wanted, std::int64_t columns) {
  return row_sum<Real>(columns, [=](std::int64_t c) { return wanted[c]; });
}

}  // namespace

template <typename Real>
void search_rows(const ProductRows<Real>& block, std::int64_t k, bool shares, std::int64_t* indices, Real* lse) {
  parallel_chunks(block.rows, kRows, block.threads, [&](std::int64_t begin, std::int64_t end, int) {
    std::vector<Real> tops;
    Selection<Real> selection;
    for (std::int64_t r = begin; r < end; ++r) {
      Real* row = block.products + r * block.columns;
      const Real high = group_tops(row, block.columns, tops), scale = block.scale[r];
      if (std::isnan(high * scale)) std::fill_n(indices + r * k, k, -1);  // an infinite feature: no logit is a number
      else selection.write(row, block.columns, tops, k, indices + r * k);
      const double sum = shares ? into_exponentials(row, block.columns, high, scale)
                                : exponential_sum(row, block.columns, high, scale);
      if (shares) multiply(row, block.columns, static_cast<Real>(1 / sum));
      lse[r] = static_cast<Real>(static_cast<double>(high) * scale + std::log(sum));
    }
  });
}

template <typename Real>
void contrast_losses(const ProductRows<Real>& block, const std::int64_t* targets, const Real* soft, Real* losses,
                     Real* lse) {
  parallel_chunks(block.rows, kRows, block.threads, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      const Real* row = block.products + r * block.columns;
      const Real high = row_max(row, block.columns), scale = block.scale[r];
      const double log_sum = std::log(exponential_sum(row, block.columns, high, scale));
      lse[r] = static_cast<Real>(static_cast<double>(high) * scale + log_sum);
      if (targets[r] < 0) {
        losses[r] = 0;
      } else if (soft == nullptr) {
        losses[r] = static_cast<Real>((static_cast<double>(high) - row[targets[r]]) * scale + log_sum);
      } else {
        const Real* wanted = soft + r * block.columns;
        const double below = row_sum<Real>(block.columns, [=](std::int64_t c) { return wanted[c] * (high - row[c]); });
        losses[r] = static_cast<Real>(below * scale + mass(wanted, block.columns) * log_sum);
      }
    }
  });
}

template <typename Real>
void contrast_shares(const ProductRows<Real>& block, const std::int64_t* targets, const Real* soft,
                     const Real* weight) {
  parallel_chunks(block.rows, kRows, block.threads, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      Real* row = block.products + r * block.columns;
      if (targets[r] < 0) {
        std::fill(row, row + block.columns, Real(0));
        continue;
      }
      const double sum = into_exponentials(row, block.columns, row_max(row, block.columns), block.scale[r]);
      if (soft == nullptr) {
        const Real target = static_cast<Real>(row[targets[r]] / sum - 1) * weight[r];
        multiply(row, block.columns, static_cast<Real>(weight[r] / sum));
        row[targets[r]] = target;
      } else {
        const Real* wanted = soft + r * block.columns;
        subtract_scaled(row, wanted, block.columns, static_cast<Real>(mass(wanted, block.columns) / sum), weight[r]);
      }
    }
  });
}

template <typename Real>
void rows_through_normalisation(Real* gradient, const Real* features, std::int64_t rows, std::int64_t width,
                                int threads) {
  parallel_chunks(rows, kRows, threads, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      const Real* x = features + r * width;
      through_normalisation(gradient + r * width, x, inverse_norm(dot(x, x, width)), 1.0, width);
    }
  });
}

#define SALCR_INSTANTIATE(Real)                                                                                   \
  template void search_rows<Real>(const ProductRows<Real>&, std::int64_t, bool, std::int64_t*, Real*);            \
  template void contrast_losses<Real>(const ProductRows<Real>&, const std::int64_t*, const Real*, Real*, Real*);  \
  template void contrast_shares<Real>(const ProductRows<Real>&, const std::int64_t*, const Real*, const Real*);   \
  template void rows_through_normalisation<Real>(Real*, const Real*, std::int64_t, std::int64_t, int);
SALCR_INSTANTIATE(float)
SALCR_INSTANTIATE(double)
#undef SALCR_INSTANTIATE

}  // namespace salcr
