#pragma once
#include <cstdint>
#include <vector>

namespace salcr {

// Which rows have which column, where a column takes up to `capacity` rows.
class Matching {
 public:
  static constexpr std::int32_t kNone = -1;

  Matching(std::int64_t rows, std::int64_t cols, std::int64_t capacity)
      : room(cols, static_cast<std::int32_t>(capacity)),
        first(cols, kNone),
        next(rows, kNone),
        column(rows, kNone),
        cost(rows, 0.0) {}

  void attach(std::int32_t row, std::int32_t to, double its_cost) {
    column[row] = to;
    cost[row] = its_cost;
    next[row] = first[to];
    first[to] = row;
    --room[to];
  }

  void detach(std::int32_t row) {
    std::int32_t* link = &first[column[row]];
    while (*link != row) link = &next[*link];
    *link = next[row];
    ++room[column[row]];
    column[row] = kNone;
  }

  std::vector<std::int32_t> room, first, next;  // rows that a column can still take; its rows, a list from first through next
  std::vector<std::int32_t> column;             // of each row, or kNone
  std::vector<double> cost;                     // of each row's column
};

}  // namespace salcr
