// k-reciprocal sets, their expansion, the weights over them and local query expansion, one image at a time.
//
// i is in the first h ranks of j exactly if its place there is below h, so one look into the ranks of each neighbour settles both
// the whole sets and the half sets. Sets are lists; membership is a mark in an array of N bytes or numbers that every thread
// has for itself and clears by walking the list again. Inner products come from the neighbour search wherever i ranks j or j ranks
// i; only the other pairs of an expanded set (a few per image) read two features.
//
// Weights that have underflowed to zero are left out: code that adds entries up takes a sum of zero for a column not met before.

#include "jaccard_encodings.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "parallel.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kAbsent = -1;

std::int64_t place(const std::int32_t* ranks, std::int64_t k, std::int32_t image) {
  for (std::int64_t r = 0; r < k; ++r)
    if (ranks[r] == image) return r;
  return kAbsent;
}

// Lengths are summed with the product: for so few pairs that is cheaper than a pass over all rows.
template <typename Real>
Real cosine(const Real* a, const Real* b, std::int64_t width) {
  constexpr Real kShortest = 1e-12;  // as in torch.nn.functional.normalize
  Real product = 0, a_square = 0, b_square = 0;
#pragma omp simd reduction(+ : product, a_square, b_square)
  for (std::int64_t d = 0; d < width; ++d) {
    product += a[d] * b[d];
    a_square += a[d] * a[d];
    b_square += b[d] * b[d];
  }
  return product / std::max(std::sqrt(a_square), kShortest) / std::max(std::sqrt(b_square), kShortest);
}

// For every image, {j in its first ranks : it is in the first ranks of j}, in the order of ranks.
struct Sets {
  Sets(std::int64_t rows, std::int64_t k) : stride(k), members(rows * k), count(rows, 0) {}
  void add(std::int64_t i, std::int32_t j) { members[i * stride + count[i]++] = j; }
  const std::int32_t* begin(std::int64_t i) const { return members.data() + i * stride; }
  const std::int32_t* end(std::int64_t i) const { return begin(i) + count[i]; }
  std::int64_t stride;
  std::vector<std::int32_t> members, count;
};

template <typename Real>
class Encoder {
 public:
  Encoder(const Neighbours<Real>& near, std::int64_t half, int threads)
      : near_(near), threads_(threads), full_(near.rows, near.k), halves_(near.rows, half) {
    parallel_chunks(near.rows, 256, threads, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t i = begin; i < end; ++i)
        for (std::int64_t r = 0; r < near.k; ++r) {
          const std::int32_t j = near.ranks[i * near.k + r];
          const std::int64_t back = place(near.ranks + j * near.k, near.k, static_cast<std::int32_t>(i));
          if (back == kAbsent) continue;
          full_.add(i, j);
          if (r < half && back < half) halves_.add(i, j);
        }
    });
  }

  // Calls each(n, set, rank) for every row of the range, n counted from its first: `set` is the row's expanded set, and rank[j]
  // the place at which the row ranks image j, or kAbsent. A chunk of rows stays in one thread, in order.
  template <typename Each>
  void each_set(Range range, Each each) const {
    struct Scratch {
      std::vector<char> in_full, in_expanded;
      std::vector<std::int32_t> rank, expanded;
    };
    std::vector<Scratch> scratch(threads_);
    parallel_chunks(range.count(), SparseRows<Real>::kChunk, threads_, [&](std::int64_t begin, std::int64_t end, int t) {
      Scratch& s = scratch[t];
      if (s.rank.empty()) {
        s.in_full.assign(near_.rows, 0);
        s.in_expanded.assign(near_.rows, 0);
        s.rank.assign(near_.rows, kAbsent);
      }
      for (std::int64_t n = begin; n < end; ++n) {
        const std::int64_t i = range.first + n;
        expand(i, s.in_full, s.in_expanded, s.expanded);
        const std::int32_t* ranks = near_.ranks + i * near_.k;
        for (std::int64_t r = 0; r < near_.k; ++r) s.rank[ranks[r]] = static_cast<std::int32_t>(r);
        each(n, s.expanded, s.rank);
        for (std::int64_t r = 0; r < near_.k; ++r) s.rank[ranks[r]] = kAbsent;
        for (const std::int32_t j : s.expanded) s.in_expanded[j] = 0;
      }
    });
  }

  // unlisted(n) gives a function that is called, in the order of the set, for the images j of row n's expanded set of which
  // neither row n ranks j nor j row n; it returns their inner product.
  template <typename Unlisted>
  SparseRows<Real> weights(Range range, Unlisted unlisted) const {
    SparseRows<Real> out(range.count());
    each_set(range, [&](std::int64_t n, const auto& set, const auto& rank) {
      append_row(range.first + n, set, rank, unlisted(n), out.entries(n));
      out.close(n);
    });
    return out;
  }

  Pairs unlisted(Range range) const {
    SparseRows<Real> found(range.count());
    each_set(range, [&](std::int64_t n, const auto& set, const auto& rank) {
      for (const std::int32_t j : set)
        if (rank[j] == kAbsent && back(range.first + n, j) == kAbsent) found.entries(n).push_back({j, 0});
      found.close(n);
    });
    Pairs pairs{{0}, {}};
    for (std::int64_t n = 0; n < range.count(); ++n) {
      for (const auto& entry : found[n]) pairs.others.push_back(entry.column);
      pairs.pointers.push_back(static_cast<std::int64_t>(pairs.others.size()));
    }
    return pairs;
  }

 private:
  // `expanded` becomes the full set of i and every half set of a member that lies more than two thirds inside it. Its members
  // are left marked.
  void expand(std::int64_t i, std::vector<char>& in_full, std::vector<char>& in_expanded,
              std::vector<std::int32_t>& expanded) const {
    expanded.assign(full_.begin(i), full_.end(i));
    for (const std::int32_t j : expanded) in_full[j] = in_expanded[j] = 1;
    for (const std::int32_t* c = full_.begin(i); c < full_.end(i); ++c) {
      const std::int32_t *first = halves_.begin(*c), *last = halves_.end(*c);
      std::int64_t inside = 0;
      for (const std::int32_t* j = first; j < last; ++j) inside += in_full[*j];
      if (3 * inside <= 2 * (last - first)) continue;
      for (const std::int32_t* j = first; j < last; ++j)
        if (!in_expanded[*j]) {
          in_expanded[*j] = 1;
          expanded.push_back(*j);
        }
    }
    for (const std::int32_t* j = full_.begin(i); j < full_.end(i); ++j) in_full[*j] = 0;
  }

  // Where image j ranks image i.
  std::int64_t back(std::int64_t i, std::int32_t j) const {
    return place(near_.ranks + j * near_.k, near_.k, static_cast<std::int32_t>(i));
  }

  template <typename Unlisted>
  void append_row(std::int64_t i, const std::vector<std::int32_t>& set, const std::vector<std::int32_t>& rank,
                  Unlisted unlisted, std::vector<Entry<Real>>& out) const {
    const std::size_t start = out.size();
    const Real factor = near_.factors == nullptr ? Real(1) : near_.factors[i];
    double sum = 0;
    for (const std::int32_t j : set) {
      Real similarity;
      if (rank[j] != kAbsent) {
        similarity = near_.products[i * near_.k + rank[j]];
      } else {
        const std::int64_t their_rank = back(i, j);
        similarity = their_rank != kAbsent ? near_.products[j * near_.k + their_rank] : unlisted(j);
      }
      const Real weight = std::exp(-(2 - 2 * similarity) * factor);
      out.push_back({j, weight});
      sum += weight;
    }
    const auto first = out.begin() + static_cast<std::ptrdiff_t>(start);
    for (auto entry = first; entry != out.end(); ++entry) entry->value = static_cast<Real>(entry->value / sum);
    out.erase(std::remove_if(first, out.end(), [](const Entry<Real>& entry) { return entry.value == 0; }), out.end());
  }

  const Neighbours<Real>& near_;
  int threads_;
  Sets full_, halves_;
};

// The mean of the rows of `encodings` at the first k2 of `stride` places of every row.
template <typename Real, typename Rows>
SparseRows<Real> averaged(const std::int32_t* places, std::int64_t rows, std::int64_t stride, std::int64_t k2,
                          Rows& encodings, std::int64_t columns, int threads) {
  SparseRows<Real> out(rows);
  struct Scratch {
    std::vector<Real> sum;
    std::vector<std::int32_t> columns;
  };
  std::vector<Scratch> scratch(threads);
  parallel_chunks(rows, SparseRows<Real>::kChunk, threads, [&](std::int64_t begin, std::int64_t end, int t) {
    Scratch& s = scratch[t];
    if (s.sum.empty()) s.sum.assign(columns, 0);
    for (std::int64_t i = begin; i < end; ++i) {
      s.columns.clear();
      for (std::int64_t r = 0; r < k2; ++r)
        for (const Entry<Real>& entry : encodings[places[i * stride + r]]) {
          if (s.sum[entry.column] == 0) s.columns.push_back(entry.column);
          s.sum[entry.column] += entry.value;
        }
      for (const std::int32_t column : s.columns) {
        const Real mean = s.sum[column] / static_cast<Real>(k2);
        if (mean != 0) out.entries(i).push_back({column, mean});
        s.sum[column] = 0;
      }
      out.close(i);
    }
  });
  return out;
}

}  // namespace

template <typename Real>
SparseRows<Real> encode(const Neighbours<Real>& near, std::int64_t half, std::int64_t k2, int threads) {
  const Real* features = near.features;
  const std::int64_t width = near.width;
  auto cosine_with = [=](std::int64_t i) {
    return [=](std::int32_t j) { return cosine(features + i * width, features + j * width, width); };
  };
  SparseRows<Real> encodings = Encoder<Real>(near, half, threads).weights({0, near.rows}, cosine_with);
  if (k2 == 1) return encodings;
  return averaged<Real>(near.ranks, near.rows, near.k, k2, encodings, near.rows, threads);
}

template <typename Real>
Pairs unlisted_pairs(const Neighbours<Real>& near, Range range, std::int64_t half, int threads) {
  return Encoder<Real>(near, half, threads).unlisted(range);
}

template <typename Real>
SparseRows<Real> weighted_rows(const Neighbours<Real>& near, Range range, std::int64_t half,
                               const std::int64_t* pair_pointers, const Real* pair_products, int threads) {
  return Encoder<Real>(near, half, threads).weights(range, [=](std::int64_t n) {
    return [next = pair_products + pair_pointers[n], end = pair_products + pair_pointers[n + 1]](std::int32_t) mutable {
      if (next == end) throw std::invalid_argument("jaccard: pairs do not fit");
      return *next++;
    };
  });
}

template <typename Real>
SparseRows<Real> averaged_rows(const std::int32_t* places, std::int64_t rows, std::int64_t k2, CsrRows<Real> encodings,
                               std::int64_t columns, int threads) {
  return averaged<Real>(places, rows, k2, k2, encodings, columns, threads);
}

template <typename Real>
void row_cosines(const Real* left, const Real* right, std::int64_t rows, std::int64_t width, Real* out, int threads) {
  parallel_chunks(rows, 256, threads, [=](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t n = begin; n < end; ++n) out[n] = cosine(left + n * width, right + n * width, width);
  });
}

#define SALCR_INSTANTIATE(Real)                                                                                          \
  template SparseRows<Real> encode(const Neighbours<Real>&, std::int64_t, std::int64_t, int);                            \
  template Pairs unlisted_pairs(const Neighbours<Real>&, Range, std::int64_t, int);                                      \
  template SparseRows<Real> weighted_rows(const Neighbours<Real>&, Range, std::int64_t, const std::int64_t*,             \
                                          const Real*, int);                                                             \
  template SparseRows<Real> averaged_rows(const std::int32_t*, std::int64_t, std::int64_t, CsrRows<Real>, std::int64_t,  \
                                          int);                                                                          \
  template void row_cosines(const Real*, const Real*, std::int64_t, std::int64_t, Real*, int);
SALCR_INSTANTIATE(float)
SALCR_INSTANTIATE(double)
#undef SALCR_INSTANTIATE

}  // namespace salcr
