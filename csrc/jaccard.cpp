// Sparse Jaccard distances: a similarity join of the encodings.
//
// A distance d <= max_distance needs m = sum_l min(V_il, V_jl) >= t = 2 (1 - d) / (2 - d). Columns are renamed by how many rows
// use them, rarest first, and each row is sorted by these names. Take the first column that two rows share: all they share lies
// from there on, so m is at most what either row weighs from there on. Hence a pair with m >= t shares a column at a place of both
// rows from which the row still weighs t (its head), and only there new pairs are met. Columns that a large part of all
// images use, hubs, lie at the ends of rows. The inverted index goes further, to where a row still weighs r < t (its body), and
// adds up what the bodies of a pair share: they share less than r elsewhere, so a pair with less than t - r is dropped unseen.
//
// For the pairs i < j that are left, m is summed in float64 over the entries of row j against row i spread out in an array; the
// pair (j, i) gets the same number. Rows are independent, so nothing depends on the threads.

#include "jaccard.hpp"

#include <algorithm>
#include <numeric>

#include "parallel.hpp"

namespace salcr {
namespace {

constexpr double kSlack = 1e-6;     // far above the rounding between m and a float32 distance
constexpr double kSumSlack = 1e-4;  // far above the rounding of a float32 sum over a body
constexpr double kBody = 0.7;       // r / t: smaller, and more is added up for every pair; larger, and more pairs are left

template <typename Real>
bool by_column(const Entry<Real>& a, const Entry<Real>& b) {
  return a.column < b.column;
}

// Renames columns to their place in the order of how many rows use them, and sorts every row by it.
template <typename Real>
void sort_by_use(SparseRows<Real>& rows, int threads) {
  const std::int64_t count = rows.rows();
  std::vector<std::int32_t> uses(count, 0), name(count), order(count);
  for (std::int64_t i = 0; i < count; ++i)
    for (const auto& entry : rows[i]) ++uses[entry.column];
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return uses[a] < uses[b]; });
  for (std::int64_t n = 0; n < count; ++n) name[order[n]] = static_cast<std::int32_t>(n);
  parallel_chunks(count, 256, threads, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      for (auto& entry : rows[i]) entry.column = name[entry.column];
      std::sort(rows[i].begin(), rows[i].end(), by_column<Real>);
    }
  });
}

// For every column, the rows that have it in their body, ascending, and their values.
template <typename Real>
struct Index {
  Index(SparseRows<Real>& rows, double head_weight, double body_weight)
      : heads(rows.rows()), bodies(rows.rows()), begin(rows.rows() + 1, 0) {
    const std::int64_t count = rows.rows();
    for (std::int64_t i = 0; i < count; ++i) {
      const auto row = rows[i];
      double weight = 0;
      std::int64_t from = row.count;
      auto length = [&](double least) {  // of the row's longest part such that from its last place on the row weighs `least`
        while (from > 0 && weight < least) weight += row.first[--from].value;
        return static_cast<std::int32_t>(weight < least ? 0 : std::min(from + 1, row.count));
      };
      bodies[i] = length(body_weight);
      heads[i] = length(head_weight);
      for (std::int64_t n = 0; n < bodies[i]; ++n) ++begin[row.first[n].column + 1];
    }
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    holders.resize(begin.back());
    values.resize(begin.back());
    std::vector<std::int64_t> cursor(begin.begin(), begin.end() - 1);
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t n = 0; n < bodies[i]; ++n) {
        const auto& entry = rows[i].first[n];
        holders[cursor[entry.column]] = static_cast<std::int32_t>(i);
        values[cursor[entry.column]++] = entry.value;
      }
  }
  std::vector<std::int32_t> heads, bodies;  // their lengths in each row
  std::vector<std::int64_t> begin;
  std::vector<std::int32_t> holders;
  std::vector<Real> values;
};

template <typename Real>
class Join {
 public:
  Join(SparseRows<Real>& rows, double least, int threads)
      : rows_(rows), index_(rows, least, kBody * least), enough_((1 - kBody) * least - kSumSlack), scratch_(threads) {}

  // Calls pair(i, j, distance) for every i < j that may be near enough, then done(i). A chunk of rows i stays in one thread,
  // in order; the j come in no particular order.
  template <typename Pair, typename Done>
  void each_pair(Pair pair, Done done) {
    parallel_chunks(rows_.rows(), SparseRows<Real>::kChunk, static_cast<int>(scratch_.size()),
                    [&](std::int64_t first, std::int64_t last, int thread) {
                      Scratch& s = scratch_[thread];
                      if (s.met.empty()) s = Scratch(rows_.rows());
                      for (std::int64_t i = first; i < last; ++i) {
                        const std::int64_t met = meet(i, s);
                        compare(i, met, s, pair);
                        done(i);
                      }
                    });
  }

 private:
  struct Scratch {
    Scratch() = default;
    explicit Scratch(std::int64_t count) : spread(count, 0), sums(count, 0), met(count + 1) {}
    std::vector<Real> spread, sums;  // row i by column; what the bodies of i and every j share
    std::vector<std::int32_t> met;   // the j with a sum
  };

  std::int64_t meet(std::int64_t i, Scratch& s) const {
    const auto row = rows_[i];
    Real* sums = s.sums.data();
    std::int32_t* met = s.met.data();
    std::int64_t count = 0;
    for (std::int64_t n = 0; n < index_.bodies[i]; ++n) {
      const auto [column, value] = row.first[n];
      const std::int32_t* holders = index_.holders.data();
      const std::int64_t end = index_.begin[column + 1];
      std::int64_t h = std::upper_bound(holders + index_.begin[column], holders + end, i) - holders;
      if (n < index_.heads[i]) {
        for (; h < end; ++h) {
          const std::int32_t j = holders[h];
          met[count] = j;
          count += sums[j] == 0;
          sums[j] += std::min(value, index_.values[h]);
        }
      } else {
        for (; h < end; ++h) {
          const Real sum = sums[holders[h]];
          sums[holders[h]] = sum + (sum > 0 ? std::min(value, index_.values[h]) : 0);
        }
      }
    }
    return count;
  }

  template <typename Pair>
  void compare(std::int64_t i, std::int64_t met, Scratch& s, Pair pair) const {
    for (const auto& entry : rows_[i]) s.spread[entry.column] = entry.value;
    for (std::int64_t n = 0; n < met; ++n) {
      const std::int32_t j = s.met[n];
      if (s.sums[j] >= enough_) {
        const auto row = rows_[j];
        double shared = 0;
#pragma omp simd reduction(+ : shared)
        for (std::int64_t e = 0; e < row.count; ++e)
          shared += std::min(s.spread[row.first[e].column], row.first[e].value);
        pair(i, j, static_cast<float>(std::max(1 - shared / (2 - shared), 0.0)));
      }
      s.sums[j] = 0;
    }
    for (const auto& entry : rows_[i]) s.spread[entry.column] = 0;
  }

  SparseRows<Real>& rows_;
  const Index<Real> index_;
  const double enough_;
  std::vector<Scratch> scratch_;
};

}  // namespace

template <typename Real>
Graph jaccard_graph(SparseRows<Real> encodings, float max_distance, int threads) {
  const std::int64_t count = encodings.rows();
  const double least = 2 * (1 - double{max_distance}) / (2 - double{max_distance}) - kSlack;
  SparseRows<float> upper(count);  // the pairs i < j
  sort_by_use(encodings, threads);
  Join<Real>(encodings, least, threads)
      .each_pair(
          [&](std::int64_t i, std::int32_t j, float distance) {
            if (distance <= max_distance) upper.entries(i).push_back({j, distance});
          },
          [&](std::int64_t i) {
            upper.close(i);
            std::sort(upper[i].begin(), upper[i].end(), by_column<float>);
          });

  Graph graph;
  graph.pointers.assign(count + 1, 0);
  for (std::int64_t i = 0; i < count; ++i) {
    graph.pointers[i + 1] += 1 + upper[i].count;
    for (const auto& entry : upper[i]) ++graph.pointers[entry.column + 1];
  }
  std::partial_sum(graph.pointers.begin(), graph.pointers.end(), graph.pointers.begin());
  graph.columns.resize(graph.pointers.back());
  graph.distances.resize(graph.pointers.back());
  std::vector<std::int64_t> cursor(graph.pointers.begin(), graph.pointers.end() - 1);
  auto put = [&](std::int64_t row, std::int64_t column, float distance) {
    graph.columns[cursor[row]] = column;
    graph.distances[cursor[row]++] = distance;
  };
  for (std::int64_t i = 0; i < count; ++i) {  // the mirrored entries of row i are already there: they are of smaller rows
    put(i, i, 0);
    for (const auto& entry : upper[i]) {
      put(i, entry.column, entry.value);
      put(entry.column, i, entry.value);
    }
  }
  return graph;
}

template <typename Real>
void jaccard_distance(SparseRows<Real> encodings, float* distances, int threads) {
  const std::int64_t count = encodings.rows();
  std::fill(distances, distances + count * count, 1.0f);
  for (std::int64_t i = 0; i < count; ++i) distances[i * count + i] = 0;
  sort_by_use(encodings, threads);
  Join<Real>(encodings, 0, threads)
      .each_pair([=](std::int64_t i, std::int32_t j,
                     float distance) { distances[i * count + j] = distances[j * count + i] = distance; },
                 [](std::int64_t) {});
}

template Graph jaccard_graph(SparseRows<float>, float, int);
template Graph jaccard_graph(SparseRows<double>, float, int);
template void jaccard_distance(SparseRows<float>, float*, int);
template void jaccard_distance(SparseRows<double>, float*, int);

}  // namespace salcr
