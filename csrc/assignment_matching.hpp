#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "assignment_vectors.hpp"

namespace salcr {

// Which rows have which column, where a column takes up to `capacity` rows.
class Matching {
 public:
  static constexpr std::int32_t kNone = -1;

  Matching(std::int64_t rows, std::int64_t cols, std::int64_t capacity)
      : room(cols, capacity),
        full(padded(cols), 0.0),
        open((cols + 63) / 64, ~std::uint64_t{0}),
        first(cols, kNone),
        next(rows, kNone),
        column(rows, kNone),
        cost(rows, 0.0) {
    if (cols % 64 != 0) open.back() = ~(~std::uint64_t{0} << cols % 64);
  }

  void attach(std::int32_t row, std::int32_t to, double its_cost) {
    link(row, to, its_cost);
    take_room(to);
  }

  void detach(std::int32_t row) {
    const std::int32_t from = column[row];
    unlink(row);
    if (room[from]++ > 0) return;
    full[from] = 0.0;
    open[from / 64] |= std::uint64_t{1} << from % 64;
  }

  // Columns change hands along the path from the free row `start` to the column `sink`; the path reaches a column from row
  // source[column]. Only `sink` has a row more than before.
  template <typename Costs, typename Rows>
  void change_hands(const Costs& costs, std::int32_t start, std::int32_t sink, const Rows& source) {
    for (std::int32_t to = sink, row = kNone; row != start;) {
      row = static_cast<std::int32_t>(source[to]);
      const std::int32_t before = column[row];
      if (before != kNone) unlink(row);
      link(row, to, costs(row, to));
      to = before;
    }
    take_room(sink);
  }

  std::vector<std::int64_t> room;         // rows that a column can still take
  std::vector<double> full;               // infinite for a column without room, else zero; padded, for the vector loops
  std::vector<std::uint64_t> open;        // bits of the columns with room
  std::vector<std::int32_t> first, next;  // a column's rows, a list from first through next
  std::vector<std::int32_t> column;       // of each row, or kNone
  std::vector<double> cost;               // of each row's column

 private:
  void take_room(std::int32_t of) {
    if (--room[of] > 0) return;
    full[of] = kInfinity;
    open[of / 64] &= ~(std::uint64_t{1} << of % 64);
  }

  void link(std::int32_t row, std::int32_t to, double its_cost) {
    column[row] = to;
    cost[row] = its_cost;
    next[row] = first[to];
    first[to] = row;
  }

  void unlink(std::int32_t row) {
    std::int32_t* link = &first[column[row]];
    while (*link != row) link = &next[*link];
    *link = next[row];
    column[row] = kNone;
  }
};

}  // namespace salcr
