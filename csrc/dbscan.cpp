// DBSCAN in three passes over the rows: who is a core point, which core points hang together, who borders on one.
//
// Core points are joined by union-find without locks: a root is only ever hooked below a smaller root, by compare-and-swap, so
// whatever the order of threads the root of a component ends as its smallest core point. Numbering the roots in order of
// their index is scikit-learn's numbering, and the smallest label among a border point's core neighbours is its choice.

#include "dbscan.hpp"

#include <atomic>
#include <vector>

#include "parallel.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kChunk = 256;

class UnionFind {
 public:
  explicit UnionFind(std::int64_t count) : parent_(count) {
    for (std::int64_t i = 0; i < count; ++i) parent_[i].store(i, std::memory_order_relaxed);
  }

  std::int64_t find(std::int64_t i) {
    for (;;) {
      std::int64_t up = parent_[i].load(std::memory_order_relaxed);
      if (up == i) return i;
      const std::int64_t above = parent_[up].load(std::memory_order_relaxed);
      if (above != up) parent_[i].compare_exchange_weak(up, above, std::memory_order_relaxed);  // halve the path
      i = above;
    }
  }

  void join(std::int64_t a, std::int64_t b) {
    while ((a = find(a)) != (b = find(b))) {
      if (a < b) std::swap(a, b);
      std::int64_t root = a;
      if (parent_[a].compare_exchange_strong(root, b, std::memory_order_relaxed)) return;
    }
  }

 private:
  std::vector<std::atomic<std::int64_t>> parent_;
};

// near(i, f) calls f(j) for every j within eps of i.
template <typename Near>
void cluster(std::int64_t rows, std::int64_t min_samples, std::int64_t* labels, int threads, Near near) {
  std::vector<char> core(rows);
  parallel_chunks(rows, kChunk, threads, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::int64_t found = 0;
      near(i, [&](std::int64_t) { ++found; });
      core[i] = found >= min_samples;
    }
  });

  UnionFind components(rows);
  parallel_chunks(rows, kChunk, threads, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i)
      if (core[i]) near(i, [&](std::int64_t j) {
          if (core[j]) components.join(i, j);
        });
  });

  std::int64_t clusters = 0;
  for (std::int64_t i = 0; i < rows; ++i) {
    if (!core[i]) continue;
    const std::int64_t root = components.find(i);
    labels[i] = root == i ? clusters++ : labels[root];
  }

  parallel_chunks(rows, kChunk, threads, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      if (core[i]) continue;
      std::int64_t label = clusters;
      near(i, [&](std::int64_t j) {
        if (core[j]) label = std::min(label, labels[j]);
      });
      labels[i] = label == clusters ? -1 : label;
    }
  });
}

}  // namespace

template <typename Real>
void dbscan_dense(const Real* distances, std::int64_t rows, float eps, std::int64_t min_samples, std::int64_t* labels,
                  int threads) {
  cluster(rows, min_samples, labels, threads, [=](std::int64_t i, auto found) {
    for (std::int64_t j = 0; j < rows; ++j)
      if (static_cast<float>(distances[i * rows + j]) <= eps) found(j);
  });
}

template <typename Real>
void dbscan_sparse(const std::int64_t* pointers, const std::int64_t* columns, const Real* distances, std::int64_t rows,
                   float eps, std::int64_t min_samples, std::int64_t* labels, int threads) {
  cluster(rows, min_samples, labels, threads, [=](std::int64_t i, auto found) {
    bool diagonal = false;
    for (std::int64_t n = pointers[i]; n < pointers[i + 1]; ++n) {
      diagonal |= columns[n] == i;
      if (static_cast<float>(distances[n]) <= eps) found(columns[n]);
    }
    if (!diagonal) found(i);
  });
}

template void dbscan_dense(const float*, std::int64_t, float, std::int64_t, std::int64_t*, int);
template void dbscan_dense(const double*, std::int64_t, float, std::int64_t, std::int64_t*, int);
template void dbscan_sparse(const std::int64_t*, const std::int64_t*, const float*, std::int64_t, float, std::int64_t,
                            std::int64_t*, int);
template void dbscan_sparse(const std::int64_t*, const std::int64_t*, const double*, std::int64_t, float, std::int64_t,
                            std::int64_t*, int);

}  // namespace salcr
