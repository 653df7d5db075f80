#pragma once
#include <cstdint>
#include <vector>

namespace salcr {

// The rows of a neighbour graph whose matrix of inner products is shown tile by tile: of each row the positive entries not
// below its k-th largest, so that all ties at that value are kept (docs/method.md, "Feature propagation").
template <typename Real>
class GraphRows {
 public:
  struct Entry {
    Real product;
    std::int32_t column;
  };

  struct Tile {
    const Real* products;  // [rows, columns], row-major
    std::int64_t first_row, rows, first_column, columns;
  };

  GraphRows(std::int64_t rows, std::int64_t columns, std::int64_t k);

  std::int64_t rows() const { return static_cast<std::int64_t>(count_.size()); }
  std::int64_t columns() const { return columns_; }

  // Shows the tile's rows their entries.
  void add_rows(const Tile& tile, int threads);

  // Shows the same tile to the transposed graph, whose rows are the tile's columns: those from `begin` on.
  void add_columns(const Tile& tile, std::int64_t begin, int threads);

  // Cuts every row to what it keeps, by column. After this, rows() of entries(row), count(row) are the graph.
  void finish(int threads);

  const Entry* entries(std::int64_t row) const { return entries_.data() + row * capacity_; }

  // Entries of a row; -1 where more ties came than there is place for.
  std::int64_t count(std::int64_t row) const { return count_[row]; }

 private:
  void push(std::int64_t row, Real product, std::int64_t column);
  void cut(std::int64_t row);

  std::int64_t columns_, k_, capacity_;
  std::vector<Entry> entries_;       // [rows, capacity]
  std::vector<std::int32_t> count_;  // entries of each row
  std::vector<Real> threshold_;      // what an entry has to reach: the k-th largest when the row was last cut
};

// out[i] = the mean of own's rows by own_graph[i] plus the mean of other's rows by other_graph[i], weighted by the products
// and normalised; own[i] where that is zero. Rows of which a graph has no entries for want of place are not written.
template <typename Real>
void propagate(const Real* own, const Real* other, std::int64_t width, const GraphRows<Real>& own_graph,
               const GraphRows<Real>& other_graph, Real* out, int threads);

}  // namespace salcr
