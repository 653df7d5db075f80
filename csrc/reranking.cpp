// Graph re-ranking with sparse rows all the way: a sum of few rows has few entries, and a query shares a column with few images.
//
// The adjacency A + Aᵀ is never made: its row i is what i ranks and who ranks i, and a column that is in both is added twice.
// The cosines of a query are summed over the inverted index of the gallery's rows, column after column, in the query's own row of
// the result. Rows are independent, so nothing depends on the threads.

#include "reranking.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

#include "parallel.hpp"
#include "rows.hpp"
#include "sparse_rows.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kQueries = 8;  // a chunk of them

// For every image, those that rank it, ascending.
struct RankedBy {
  RankedBy(const std::int32_t* ranks, std::int64_t rows, std::int64_t k) : begin(rows + 1, 0), images(rows * k) {
    for (std::int64_t n = 0; n < rows * k; ++n) ++begin[ranks[n] + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    std::vector<std::int64_t> cursor(begin.begin(), begin.end() - 1);
    for (std::int64_t n = 0; n < rows * k; ++n) images[cursor[ranks[n]]++] = static_cast<std::int32_t>(n / k);
  }
  std::vector<std::int64_t> begin;
  std::vector<std::int32_t> images;
};

// Normalised sums over each row's neighbours; each_entry(j, add) calls add(column, value) for the entries of row j.
template <typename Real, typename EachEntry>
SparseRows<Real> aggregated(const NeighbourGraph<Real>& graph, EachEntry each_entry, int threads) {
  SparseRows<Real> out(graph.rows);
  struct Scratch {
    std::vector<Real> sum;
    std::vector<std::int32_t> columns;
  };
  std::vector<Scratch> scratch(threads);
  parallel_chunks(graph.rows, SparseRows<Real>::kChunk, threads, [&](std::int64_t begin, std::int64_t end, int t) {
    Scratch& s = scratch[t];
    if (s.sum.empty()) s.sum.assign(graph.rows, 0);
    for (std::int64_t i = begin; i < end; ++i) {
      s.columns.clear();
      for (std::int64_t r = 0; r < graph.k2; ++r) {
        const Real weight = graph.weights[i * graph.k2 + r];
        if (weight == 0) continue;
        each_entry(graph.ranks[i * graph.k + r], [&](std::int32_t column, Real value) {
          if (s.sum[column] == 0) s.columns.push_back(column);
          s.sum[column] += weight * value;
        });
      }
      double square = 0;
      for (const std::int32_t column : s.columns) square += double{s.sum[column]} * s.sum[column];
      const Real scale = static_cast<Real>(inverse_norm(square));
      auto& entries = out.entries(i);
      for (const std::int32_t column : s.columns) {
        entries.push_back({column, s.sum[column] * scale});
        s.sum[column] = 0;
      }
      out.close(i);
    }
  });
  return out;
}

// For every column, the rows from `first` on that have it, counted from there.
template <typename Real>
struct Holders {
  Holders(SparseRows<Real>& rows, std::int64_t first) : begin(rows.rows() + 1, 0) {
    for (std::int64_t i = first; i < rows.rows(); ++i)
      for (const auto& entry : rows[i]) ++begin[entry.column + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    entries.resize(begin.back());
    std::vector<std::int64_t> cursor(begin.begin(), begin.end() - 1);
    for (std::int64_t i = first; i < rows.rows(); ++i)
      for (const auto& entry : rows[i])
        entries[cursor[entry.column]++] = {static_cast<std::int32_t>(i - first), entry.value};
  }
  std::vector<std::int64_t> begin;
  std::vector<Entry<Real>> entries;
};

}  // namespace

template <typename Real>
void graph_cosines(const NeighbourGraph<Real>& graph, std::int64_t queries, Real* cosines, int threads) {
  const RankedBy ranked_by(graph.ranks, graph.rows, graph.k);
  SparseRows<Real> once = aggregated(
      graph,
      [&](std::int32_t j, auto add) {
        for (std::int64_t r = 0; r < graph.k; ++r) add(graph.ranks[j * graph.k + r], Real(1));
        for (std::int64_t n = ranked_by.begin[j]; n < ranked_by.begin[j + 1]; ++n) add(ranked_by.images[n], Real(1));
      },
      threads);
  SparseRows<Real> rows = aggregated(
      graph,
      [&](std::int32_t j, auto add) {
        for (const auto& entry : once[j]) add(entry.column, entry.value);
      },
      threads);
  const Holders<Real> gallery(rows, queries);
  const std::int64_t images = graph.rows - queries;
  parallel_chunks(queries, kQueries, threads, [&](std::int64_t begin, std::int64_t end, int) {
    std::fill(cosines + begin * images, cosines + end * images, Real(0));
    for (std::int64_t q = begin; q < end; ++q) {
      Real* row = cosines + q * images;
      for (const auto& entry : rows[q])
        for (std::int64_t n = gallery.begin[entry.column]; n < gallery.begin[entry.column + 1]; ++n)
          row[gallery.entries[n].column] += entry.value * gallery.entries[n].value;
    }
  });
}

template void graph_cosines(const NeighbourGraph<float>&, std::int64_t, float*, int);
template void graph_cosines(const NeighbourGraph<double>&, std::int64_t, double*, int);

}  // namespace salcr
