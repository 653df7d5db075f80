// The running top-k behind a blocked matrix product.
//
// Every row keeps a buffer of up to 1.5 k entries and a threshold. A score above the threshold is appended; a full buffer is cut
// to its k largest, whose smallest becomes the threshold. As columns come in ascending order, a later score that equals the
// threshold has lost its tie already, so that `>` is the whole test and nearly all scores cost one vectorised comparison.
// Each tile is read once for its rows and, where the matrix is symmetric, once for its columns; N buffers are all that stays.

#include "knn.hpp"

#include <algorithm>
#include <limits>

#include "parallel.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kLanes = 16;

// Calls found(n) for all n < count with score(n) > threshold(n), in ascending order.
template <typename Score, typename Threshold, typename Found>
inline void each_above(std::int64_t count, Score score, Threshold threshold, Found found) {
  for (std::int64_t start = 0; start < count; start += kLanes) {
    const std::int64_t stop = std::min(count, start + kLanes);
    int any = 0;
    if (stop - start == kLanes) {
#pragma omp simd reduction(| : any)
      for (std::int64_t lane = 0; lane < kLanes; ++lane) any |= score(start + lane) > threshold(start + lane);
      if (!any) continue;
    }
    for (std::int64_t n = start; n < stop; ++n)
      if (score(n) > threshold(n)) found(n);
  }
}

// Squared distance with its sign turned, in the order of operations of the reference.
template <typename Real>
inline Real turned(Real product, Real own, Real other) {
  const Real score = (2 * product - own) - other;
  return score > 0 ? 0 : score;
}

}  // namespace

template <typename Real>
TopK<Real>::TopK(std::int64_t rows, std::int64_t k)
    : k_(k),
      capacity_(k + std::max<std::int64_t>(k / 2, 16)),
      entries_(rows * capacity_),
      count_(rows, 0),
      threshold_(rows, -std::numeric_limits<Real>::infinity()) {}

template <typename Real>
void TopK<Real>::push(std::int64_t row, Real score, std::int64_t index) {
  Entry* entries = entries_.data() + row * capacity_;
  std::int32_t& count = count_[row];
  entries[count++] = {score, static_cast<std::int32_t>(index)};
  if (count == capacity_) cut(row);
}

template <typename Real>
void TopK<Real>::cut(std::int64_t row) {
  Entry* entries = entries_.data() + row * capacity_;
  std::int32_t& count = count_[row];
  if (count < k_) return;
  std::nth_element(entries, entries + k_ - 1, entries + count, [](const Entry& a, const Entry& b) {
    return a.score != b.score ? a.score > b.score : a.index < b.index;
  });
  count = static_cast<std::int32_t>(k_);
  threshold_[row] = entries[k_ - 1].score;
}

template <typename Real>
void TopK<Real>::join(const TopK& other) {
  for (std::int64_t row = 0; row < rows(); ++row)
    for (std::int32_t n = 0; n < other.count_[row]; ++n) {
      const Entry& entry = other.entries_[row * other.capacity_ + n];
      push(row, entry.score, entry.index);
    }
}

template <typename Real>
void TopK<Real>::add_rows(const Tile& tile, bool own, int threads) {
  parallel_chunks(tile.rows, 32, threads, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t row = tile.first_row + r;
      const Real* products = tile.products + r * tile.columns;
      auto scan = [&](auto score) {
        auto threshold = [&](std::int64_t) { return threshold_[row]; };
        each_above(tile.columns, score, threshold, [&](std::int64_t c) {
          if (!own || tile.first_column + c != row) push(row, score(c), tile.first_column + c);
        });
      };
      if (tile.row_terms == nullptr) {
        scan([=](std::int64_t c) { return products[c]; });
      } else {
        const Real term = tile.row_terms[row];
        const Real* terms = tile.column_terms + tile.first_column;
        scan([=](std::int64_t c) { return turned(products[c], term, terms[c]); });
      }
    }
  });
}

template <typename Real>
void TopK<Real>::add_columns(const Tile& tile, std::int64_t begin, int threads) {
  const std::int64_t skipped = begin - tile.first_column;
  const std::int64_t chunk = std::max<std::int64_t>(256, (tile.columns / (4 * threads) + kLanes) / kLanes * kLanes);
  parallel_chunks(tile.columns - skipped, chunk, threads, [&](std::int64_t first, std::int64_t last, int) {
    const Real* thresholds = threshold_.data() + begin + first;
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      const Real* products = tile.products + r * tile.columns + skipped + first;
      auto scan = [&](auto score) {
        auto threshold = [=](std::int64_t c) { return thresholds[c]; };
        each_above(last - first, score, threshold,
                   [&](std::int64_t c) { push(begin + first + c, score(c), tile.first_row + r); });
      };
      if (tile.row_terms == nullptr) {
        scan([=](std::int64_t c) { return products[c]; });
      } else {
        const Real term = tile.row_terms[tile.first_row + r];
        const Real* terms = tile.column_terms + begin + first;
        scan([=](std::int64_t c) { return turned(products[c], terms[c], term); });
      }
    }
  });
}

template <typename Real>
void TopK<Real>::write(Real* scores, std::int64_t* indices, std::int64_t stride, int threads) {
  parallel_chunks(rows(), 256, threads, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t row = begin; row < end; ++row) {
      Entry* entries = entries_.data() + row * capacity_;
      const std::int64_t count = count_[row];
      std::sort(entries, entries + count, [](const Entry& a, const Entry& b) {
        return a.score != b.score ? a.score > b.score : a.index < b.index;
      });
      for (std::int64_t n = 0; n < k_; ++n) {
        scores[row * stride + n] = n < count ? entries[n].score : -std::numeric_limits<Real>::infinity();
        indices[row * stride + n] = n < count ? entries[n].index : std::numeric_limits<std::int64_t>::max() / 2;
      }
    }
  });
}

template class TopK<float>;
template class TopK<double>;

}  // namespace salcr
