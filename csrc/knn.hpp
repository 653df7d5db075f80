#pragma once
#include <cstdint>
#include <vector>

namespace salcr {

// The k largest scores of every row of a matrix that is shown tile by tile, equal ones by index (docs/method.md, "Ranks").
//
// A row has to see its columns in ascending order. Scores that are NaN or -Inf are in no list.
template <typename Real>
class TopK {
 public:
  struct Tile {
    const Real* products;  // [rows, columns], row-major
    std::int64_t first_row, rows, first_column, columns;
    const Real* row_terms;  // squared norms of all rows and of all columns; null: a score is the product itself
    const Real* column_terms;
  };

  TopK(std::int64_t rows, std::int64_t k);

  std::int64_t rows() const { return static_cast<std::int64_t>(count_.size()); }
  std::int64_t k() const { return k_; }

  // Shows the tile's rows their columns; own: row i is not shown column i.
  void add_rows(const Tile& tile, bool own, int threads);

  // Shows the tile's columns from `begin` (of the whole matrix) on their rows: the part of a symmetric matrix that lies
  // mirrored to the tile.
  void add_columns(const Tile& tile, std::int64_t begin, int threads);

  // The k-th largest score of a row when its list was last cut: a score that is not above it is not among the k largest.
  Real threshold(std::int64_t row) const { return threshold_[row]; }

  // Adds one score to a row's list.
  void push(std::int64_t row, Real score, std::int64_t index);

  // Leaves a row its k largest, if it has as many.
  void cut(std::int64_t row);

  // Adds the lists of another, which has seen other columns.
  void join(const TopK& other);

  // Writes scores [rows, k] and indices [rows, k], `stride` apart from row to row. Short lists are filled up with scores of -Inf
  // and indices beyond 2^61.
  void write(Real* scores, std::int64_t* indices, std::int64_t stride, int threads);

 private:
  struct Entry {
    Real score;
    std::int32_t index;
  };

  std::int64_t k_, capacity_;
  std::vector<Entry> entries_;       // [rows, capacity]
  std::vector<std::int32_t> count_;  // entries of each row
  std::vector<Real> threshold_;      // the k-th largest score of a row when it was last cut to k entries
};

}  // namespace salcr
