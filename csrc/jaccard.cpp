// Sparse Jaccard distances: a similarity join of the encodings.
//
// A distance d <= max_distance needs m = sum_l min(V_il, V_jl) >= t = 2 (1 - d) / (2 - d). Columns are renamed by how many rows
// use them, rarest first, and each row is sorted by these names. Take the first column that two rows share: all they share lies
// from there on, so m is at most what either row weighs from there on. Hence a pair with m >= t shares a column at a place of both
// rows from which the row still weighs t (its head), and only there new pairs are met. Columns that a large part of all
// images use, hubs, lie at the ends of rows. The inverted index goes further, to where a row still weighs r < t (its body), and
// adds up what the bodies of a pair share: elsewhere the two rows share less than r, so a pair whose bodies share less than t - r
// is dropped, and its distance is not computed.
//
// For the pairs i < j that are left, m is summed in float64 over the entries of row j against row i spread out in an array; the
// pair (j, i) gets the same number. Rows are independent, so nothing depends on the threads.

#include "jaccard.hpp"

#include <algorithm>
#include <numeric>

#include "extrema.hpp"
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

template <typename Real, typename Rows>
std::vector<std::int32_t> uses_of_columns(Rows& rows, std::int64_t columns) {
  std::vector<std::int32_t> uses(columns, 0);
  for (std::int64_t i = 0; i < rows.rows(); ++i)
    for (const auto& entry : rows[i]) ++uses[entry.column];
  return uses;
}

// Renames columns to their place in the order of how many rows use them, and sorts every row by it.
template <typename Real, typename Rows>
void sort_by_use(Rows& rows, const std::int32_t* uses, std::int64_t columns, int threads) {
  std::vector<std::int32_t> name(columns), order(columns);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return uses[a] < uses[b]; });
  for (std::int64_t n = 0; n < columns; ++n) name[order[n]] = static_cast<std::int32_t>(n);
  parallel_chunks(rows.rows(), 256, threads, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      for (auto& entry : rows[i]) entry.column = name[entry.column];
      std::sort(rows[i].begin(), rows[i].end(), by_column<Real>);
    }
  });
}

template <typename Real>
void sort_by_use(SparseRows<Real>& rows, int threads) {
  sort_by_use<Real>(rows, uses_of_columns<Real>(rows, rows.rows()).data(), rows.rows(), threads);
}

// How many entries of each row are its head and its body.
struct Prefixes {
  template <typename Rows>
  Prefixes(Rows& rows, double head_weight, double body_weight) : heads(rows.rows()), bodies(rows.rows()) {
    for (std::int64_t i = 0; i < rows.rows(); ++i) {
      const auto row = rows[i];
      double weight = 0;
      std::int64_t from = row.count;
      auto length = [&](double least) {  // of the row's longest part such that from its last place on the row weighs `least`
        while (from > 0 && weight < least) weight += row.first[--from].value;
        return static_cast<std::int32_t>(weight < least ? 0 : std::min(from + 1, row.count));
      };
      bodies[i] = length(body_weight);
      heads[i] = length(head_weight);
    }
  }
  std::vector<std::int32_t> heads, bodies;
};

// For every column its postings: the rows that have it in their body, ascending, and their values there.
template <typename Real>
struct Index {
  template <typename Rows>
  Index(Rows& rows, const std::vector<std::int32_t>& bodies, std::int64_t columns) : begin(columns + 1, 0) {
    for (std::int64_t i = 0; i < rows.rows(); ++i)
      for (std::int64_t n = 0; n < bodies[i]; ++n) ++begin[rows[i].first[n].column + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    postings.resize(begin.back());
    values.resize(begin.back());
    std::vector<std::int64_t> cursor(begin.begin(), begin.end() - 1);
    for (std::int64_t i = 0; i < rows.rows(); ++i)
      for (std::int64_t n = 0; n < bodies[i]; ++n) {
        const auto& entry = rows[i].first[n];
        postings[cursor[entry.column]] = static_cast<std::int32_t>(i);
        values[cursor[entry.column]++] = entry.value;
      }
  }
  std::vector<std::int64_t> begin;
  std::vector<std::int32_t> postings;
  std::vector<Real> values;
};

// The pairs of rows i of `rows` with rows j of `others`, which are the same rows or lie behind them: among the rows i, row j would
// be number j + offset.
template <typename Real, typename Rows>
class Join {
 public:
  Join(Rows& rows, Rows& others, std::int64_t offset, std::int64_t columns, double least, int threads)
      : rows_(rows),
        others_(others),
        offset_(offset),
        columns_(columns),
        prefixes_(rows, least, kBody * least),
        index_(others, &rows == &others ? prefixes_.bodies : Prefixes(others, least, kBody * least).bodies, columns),
        enough_((1 - kBody) * least - kSumSlack),
        scratch_(threads) {}

  // Calls pair(i, j, distance) for every i < j + offset that may be near enough, then done(i). A chunk of rows i stays in one
  // thread, in order; the j come in no particular order.
  template <typename Pair, typename Done>
  void each_pair(Pair pair, Done done) {
    parallel_chunks(rows_.rows(), SparseRows<Real>::kChunk, static_cast<int>(scratch_.size()),
                    [&](std::int64_t first, std::int64_t last, int thread) {
                      Scratch& s = scratch_[thread];
                      if (s.met.empty()) s = Scratch(columns_, others_.rows());
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
    Scratch(std::int64_t columns, std::int64_t others) : spread(columns, 0), sums(others, 0), met(others + 1) {}
    std::vector<Real> spread, sums;  // row i by column; what the bodies of i and every j share
    std::vector<std::int32_t> met;   // the j with a sum
  };

  // Adds up what the bodies of row i and of the rows j after it share. Only the head of i meets new j; returns how many.
  std::int64_t meet(std::int64_t i, Scratch& s) const {
    const auto row = rows_[i];
    Real* sums = s.sums.data();
    std::int32_t* met = s.met.data();
    std::int64_t count = 0;
    for (std::int64_t n = 0; n < prefixes_.bodies[i]; ++n) {
      const auto [column, value] = row.first[n];
      const std::int32_t* postings = index_.postings.data();
      const std::int64_t end = index_.begin[column + 1];
      std::int64_t p = std::upper_bound(postings + index_.begin[column], postings + end, i - offset_) - postings;
      if (n < prefixes_.heads[i]) {
        for (; p < end; ++p) {
          const std::int32_t j = postings[p];
          met[count] = j;
          count += sums[j] == 0;
          sums[j] += std::min(value, index_.values[p]);
        }
      } else {
        for (; p < end; ++p) {
          const Real sum = sums[postings[p]];
          sums[postings[p]] = sum + (sum > 0 ? std::min(value, index_.values[p]) : 0);
        }
      }
    }
    return count;
  }

  // Calls pair() for the rows met that share enough; clears the scratch.
  template <typename Pair>
  void compare(std::int64_t i, std::int64_t met, Scratch& s, Pair pair) const {
    for (const auto& entry : rows_[i]) s.spread[entry.column] = entry.value;
    for (std::int64_t n = 0; n < met; ++n) {
      const std::int32_t j = s.met[n];
      if (s.sums[j] >= enough_) {
        const auto row = others_[j];
        double shared = 0;
#pragma omp simd reduction(+ : shared)
        for (std::int64_t e = 0; e < row.count; ++e)
          shared += smaller(s.spread[row.first[e].column], row.first[e].value);
        pair(i, j, static_cast<float>(std::max(1 - shared / (2 - shared), 0.0)));
      }
      s.sums[j] = 0;
    }
    for (const auto& entry : rows_[i]) s.spread[entry.column] = 0;
  }

  Rows &rows_, &others_;
  const std::int64_t offset_, columns_;
  const Prefixes prefixes_;
  const Index<Real> index_;
  const double enough_;
  std::vector<Scratch> scratch_;
};

// For every row, the others within `max_distance` that come after it, in order.
template <typename Real, typename Rows>
SparseRows<float> near_rows(Rows& rows, Rows& others, std::int64_t offset, std::int64_t columns, float max_distance,
                            int threads) {
  const double least = 2 * (1 - double{max_distance}) / (2 - double{max_distance}) - kSlack;
  SparseRows<float> near(rows.rows());
  Join<Real, Rows>(rows, others, offset, columns, least, threads)
      .each_pair(
          [&](std::int64_t i, std::int32_t j, float distance) {
            if (distance <= max_distance) near.entries(i).push_back({j, distance});
          },
          [&](std::int64_t i) {
            near.close(i);
            std::sort(near[i].begin(), near[i].end(), by_column<float>);
          });
  return near;
}

}  // namespace

template <typename Real>
Graph jaccard_graph(SparseRows<Real> encodings, float max_distance, int threads) {
  const std::int64_t count = encodings.rows();
  sort_by_use(encodings, threads);
  SparseRows<float> upper = near_rows<Real>(encodings, encodings, 0, count, max_distance, threads);  // the pairs i < j

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
  Join<Real, SparseRows<Real>>(encodings, encodings, 0, count, 0, threads)
      .each_pair([=](std::int64_t i, std::int32_t j,
                     float distance) { distances[i * count + j] = distances[j * count + i] = distance; },
                 [](std::int64_t) {});
}

template <typename Real>
NearPairs near_pairs(CsrRows<Real> left, CsrRows<Real> right, std::int64_t offset, std::int64_t columns,
                     float max_distance, int threads) {
  SparseRows<float> near = near_rows<Real>(left, right, offset, columns, max_distance, threads);
  NearPairs pairs;
  for (std::int64_t i = 0; i < near.rows(); ++i)
    for (const auto& entry : near[i]) {
      pairs.left.push_back(static_cast<std::int32_t>(i));
      pairs.right.push_back(entry.column);
    }
  return pairs;
}

template <typename Real>
void rarest_first(CsrRows<Real> rows, const std::int32_t* uses, std::int64_t columns, int threads) {
  sort_by_use<Real>(rows, uses, columns, threads);
}

#define SALCR_INSTANTIATE(Real)                                                                            \
  template Graph jaccard_graph(SparseRows<Real>, float, int);                                              \
  template NearPairs near_pairs(CsrRows<Real>, CsrRows<Real>, std::int64_t, std::int64_t, float, int);     \
  template void rarest_first(CsrRows<Real>, const std::int32_t*, std::int64_t, int);                       \
  template void jaccard_distance(SparseRows<Real>, float*, int);
SALCR_INSTANTIATE(float)
SALCR_INSTANTIATE(double)
#undef SALCR_INSTANTIATE

}  // namespace salcr
