// k-reciprocal sets, their expansion, the weights over them and local query expansion, one image at a time.
//
// i is in the first h ranks of j exactly if its place there is below h, so one look into the ranks of each neighbour settles both
// the whole sets and the half sets. Sets are lists; membership is a mark in an array of N bytes or numbers that every thread
// has for itself and clears by walking the list again. Inner products come from the neighbour search wherever i ranks j or j ranks
// i; only the other pairs of an expanded set (a few per image) read two features.

#include "jaccard_encodings.hpp"

#include <cmath>
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

template <typename Real>
Real product(const Real* a, const Real* b, std::int64_t width) {
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t d = 0; d < width; ++d) sum += a[d] * b[d];
  return sum;
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

  SparseRows<Real> weights() {
    SparseRows<Real> out(near_.rows);
    struct Scratch {
      std::vector<char> in_full, in_expanded;
      std::vector<std::int32_t> rank;  // of the images that i ranks
      std::vector<std::int32_t> expanded;
    };
    std::vector<Scratch> scratch(threads_);
    parallel_chunks(near_.rows, SparseRows<Real>::kChunk, threads_, [&](std::int64_t begin, std::int64_t end, int t) {
      Scratch& s = scratch[t];
      if (s.rank.empty()) {
        s.in_full.assign(near_.rows, 0);
        s.in_expanded.assign(near_.rows, 0);
        s.rank.assign(near_.rows, kAbsent);
      }
      for (std::int64_t i = begin; i < end; ++i) {
        expand(i, s.in_full, s.in_expanded, s.expanded);
        const std::int32_t* ranks = near_.ranks + i * near_.k;
        for (std::int64_t r = 0; r < near_.k; ++r) s.rank[ranks[r]] = static_cast<std::int32_t>(r);
        append_row(i, s.expanded, s.rank, out.entries(i));
        out.close(i);
        for (std::int64_t r = 0; r < near_.k; ++r) s.rank[ranks[r]] = kAbsent;
        for (const std::int32_t j : s.expanded) s.in_expanded[j] = 0;
      }
      out.trim(begin);
    });
    return out;
  }

  SparseRows<Real> averaged(SparseRows<Real>& encodings, std::int64_t k2) {
    SparseRows<Real> out(near_.rows);
    struct Scratch {
      std::vector<Real> sum;
      std::vector<std::int32_t> columns;
    };
    std::vector<Scratch> scratch(threads_);
    parallel_chunks(near_.rows, SparseRows<Real>::kChunk, threads_, [&](std::int64_t begin, std::int64_t end, int t) {
      Scratch& s = scratch[t];
      if (s.sum.empty()) s.sum.assign(near_.rows, 0);
      for (std::int64_t i = begin; i < end; ++i) {
        s.columns.clear();
        for (std::int64_t r = 0; r < k2; ++r)
          for (const Entry<Real>& entry : encodings[near_.ranks[i * near_.k + r]]) {
            if (s.sum[entry.column] == 0) s.columns.push_back(entry.column);
            s.sum[entry.column] += entry.value;
          }
        for (const std::int32_t column : s.columns) {
          out.entries(i).push_back({column, s.sum[column] / static_cast<Real>(k2)});
          s.sum[column] = 0;
        }
        out.close(i);
      }
      out.trim(begin);
    });
    return out;
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

  void append_row(std::int64_t i, const std::vector<std::int32_t>& set, const std::vector<std::int32_t>& rank,
                  std::vector<Entry<Real>>& out) const {
    const std::size_t start = out.size();
    double sum = 0;
    for (const std::int32_t j : set) {
      Real similarity;
      if (rank[j] != kAbsent) {
        similarity = near_.products[i * near_.k + rank[j]];
      } else {
        const std::int64_t back = place(near_.ranks + j * near_.k, near_.k, static_cast<std::int32_t>(i));
        similarity = back != kAbsent ? near_.products[j * near_.k + back]
                                     : product(near_.features + i * near_.width, near_.features + j * near_.width,
                                               near_.width);
      }
      const Real weight = std::exp(-(2 - 2 * similarity));
      out.push_back({j, weight});
      sum += weight;
    }
    for (std::size_t n = start; n < out.size(); ++n) out[n].value = static_cast<Real>(out[n].value / sum);
  }

  const Neighbours<Real>& near_;
  int threads_;
  Sets full_, halves_;
};

}  // namespace

template <typename Real>
SparseRows<Real> encode(const Neighbours<Real>& near, std::int64_t half, std::int64_t k2, int threads) {
  Encoder<Real> encoder(near, half, threads);
  SparseRows<Real> encodings = encoder.weights();
  return k2 == 1 ? std::move(encodings) : encoder.averaged(encodings, k2);
}

template SparseRows<float> encode(const Neighbours<float>&, std::int64_t, std::int64_t, int);
template SparseRows<double> encode(const Neighbours<double>&, std::int64_t, std::int64_t, int);

}  // namespace salcr
