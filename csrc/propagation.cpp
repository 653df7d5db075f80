// Neighbour graphs behind blocked matrix products, and the means over them.
//
// Every row keeps a buffer and a threshold. A product that reaches the threshold is appended; a full buffer is cut to the entries
// not below its k-th largest, which becomes the threshold. What a row keeps does not depend on the order of the tiles, so one pass
// over the cross products serves both cross graphs, and the tiles on and above the diagonal serve a symmetric graph. A row whose
// ties alone fill its buffer is given up; its owner computes it from whole rows. Nothing but the buffers grows with N.

#include "propagation.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "parallel.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kLanes = 16, kRoom = 32, kStrip = 512;
constexpr double kTiny = 1e-12;  // torch.nn.functional.normalize's eps

// Calls found(n) for the n < count that pass the test, in ascending order; nearly all fail it.
template <typename Test, typename Found>
inline void each_passing(std::int64_t count, Test test, Found found) {
  std::int64_t start = 0;
  for (; start + kLanes <= count; start += kLanes) {
    int any = 0;
#pragma omp simd reduction(| : any)
    for (std::int64_t lane = 0; lane < kLanes; ++lane) any |= test(start + lane);
    if (any)
      for (std::int64_t n = start; n < start + kLanes; ++n)
        if (test(n)) found(n);
  }
  for (; start < count; ++start)
    if (test(start)) found(start);
}

// sum += the entries' features, columns [begin, begin + length), each times its share of the row's products.
template <typename Real>
void add_mean(const typename GraphRows<Real>::Entry* entries, std::int64_t count, const Real* features,
              std::int64_t width, std::int64_t begin, std::int64_t length, double* sum) {
  double total = 0;
  for (std::int64_t n = 0; n < count; ++n) total += entries[n].product;
  for (std::int64_t n = 0; n < count; ++n) {
    const double weight = entries[n].product / total;
    const Real* row = features + entries[n].column * width + begin;
#pragma omp simd
    for (std::int64_t d = 0; d < length; ++d) sum[d] += weight * row[d];
  }
}

template <typename Real>
void normalise(const Real* row, std::int64_t width, Real* out) {
  double square = 0;
  for (std::int64_t d = 0; d < width; ++d) square += static_cast<double>(row[d]) * row[d];
  const double norm = std::max(std::sqrt(square), kTiny);
  for (std::int64_t d = 0; d < width; ++d) out[d] = static_cast<Real>(row[d] / norm);
}

}  // namespace

template <typename Real>
GraphRows<Real>::GraphRows(std::int64_t rows, std::int64_t columns, std::int64_t k)
    : columns_(columns),
      k_(std::min(k, columns)),
      capacity_(std::min(columns, 2 * k_ + kRoom)),
      entries_(rows * capacity_),
      count_(rows, 0),
      threshold_(rows, std::numeric_limits<Real>::denorm_min()) {}

template <typename Real>
void GraphRows<Real>::cut(std::int64_t row) {
  Entry* entries = entries_.data() + row * capacity_;
  std::int32_t& count = count_[row];
  if (count <= k_) return;
  std::nth_element(entries, entries + k_ - 1, entries + count,
                   [](const Entry& a, const Entry& b) { return a.product > b.product; });
  const Real kth = threshold_[row] = entries[k_ - 1].product;
  const auto kept = std::partition(entries + k_, entries + count, [=](const Entry& e) { return e.product == kth; });
  count = static_cast<std::int32_t>(kept - entries);
}

template <typename Real>
void GraphRows<Real>::push(std::int64_t row, Real product, std::int64_t column) {
  std::int32_t& count = count_[row];
  if (count < 0) return;
  if (count == capacity_) cut(row);
  if (count == capacity_) {
    count = -1;
    threshold_[row] = std::numeric_limits<Real>::infinity();
  } else if (product >= threshold_[row]) {
    entries_[row * capacity_ + count++] = {product, static_cast<std::int32_t>(column)};
  }
}

template <typename Real>
void GraphRows<Real>::add_rows(const Tile& tile, int threads) {
  parallel_chunks(tile.rows, 32, threads, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t row = tile.first_row + r;
      const Real* products = tile.products + r * tile.columns;
      const Real* threshold = &threshold_[row];
      each_passing(
          tile.columns, [=](std::int64_t c) { return products[c] >= *threshold; },
          [&](std::int64_t c) { push(row, products[c], tile.first_column + c); });
    }
  });
}

template <typename Real>
void GraphRows<Real>::add_columns(const Tile& tile, std::int64_t begin, int threads) {
  const std::int64_t skipped = begin - tile.first_column, left = tile.columns - skipped;
  const std::int64_t chunk = std::max<std::int64_t>(256, (left / (4 * threads) + kLanes) / kLanes * kLanes);
  parallel_chunks(left, chunk, threads, [&](std::int64_t first, std::int64_t last, int) {
    const Real* thresholds = threshold_.data() + begin + first;
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      const Real* products = tile.products + r * tile.columns + skipped + first;
      each_passing(
          last - first, [=](std::int64_t c) { return products[c] >= thresholds[c]; },
          [&](std::int64_t c) { push(begin + first + c, products[c], tile.first_row + r); });
    }
  });
}

template <typename Real>
void GraphRows<Real>::finish(int threads) {
  parallel_chunks(rows(), 256, threads, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t row = begin; row < end; ++row) {
      if (count_[row] < 0) continue;
      cut(row);
      Entry* entries = entries_.data() + row * capacity_;
      std::sort(entries, entries + count_[row], [](const Entry& a, const Entry& b) { return a.column < b.column; });
    }
  });
}

template <typename Real>
void propagate(const Real* own, const Real* other, std::int64_t width, const GraphRows<Real>& own_graph,
               const GraphRows<Real>& other_graph, Real* out, int threads) {
  parallel_chunks(own_graph.rows(), 16, threads, [&](std::int64_t begin, std::int64_t end, int) {
    double sum[kStrip];
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t own_count = own_graph.count(row), other_count = other_graph.count(row);
      if (own_count < 0 || other_count < 0) continue;
      Real* target = out + row * width;
      bool any = false;
      for (std::int64_t d = 0; d < width; d += kStrip) {
        const std::int64_t length = std::min(kStrip, width - d);
        std::fill_n(sum, length, 0.0);
        add_mean(own_graph.entries(row), own_count, own, width, d, length, sum);
        add_mean(other_graph.entries(row), other_count, other, width, d, length, sum);
        for (std::int64_t n = 0; n < length; ++n) any |= (target[d + n] = static_cast<Real>(sum[n])) != 0;
      }
      normalise(any ? target : own + row * width, width, target);
    }
  });
}

template class GraphRows<float>;
template class GraphRows<double>;
template void propagate(const float*, const float*, std::int64_t, const GraphRows<float>&, const GraphRows<float>&,
                        float*, int);
template void propagate(const double*, const double*, std::int64_t, const GraphRows<double>&, const GraphRows<double>&,
                        double*, int);

}  // namespace salcr
