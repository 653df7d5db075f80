// Rows are read from L1 or L2, or once from memory. What is looked for by value is found by blocks, of which only one that holds it
// is looked at closely; minima go by lanes, which are merged in the end.

#include "assignment_rows.hpp"

#include <algorithm>

#include "assignment_vectors.hpp"
#include "each_isa.hpp"

namespace salcr {
namespace {

// The first of [begin, end) that is_it, or -1.
template <typename Is>
inline std::int64_t find_by_blocks(std::int64_t begin, std::int64_t end, Is&& is_it) {
  constexpr std::int64_t kBlock = 32;
  for (std::int64_t j = begin; j < end; j += kBlock) {
    const int width = static_cast<int>(std::min(kBlock, end - j));
    int hits = 0;
#pragma omp simd reduction(+ : hits)
    for (int l = 0; l < width; ++l) hits += is_it(j + l);
    if (hits == 0) continue;
    while (!is_it(j)) ++j;
    return j;
  }
  return -1;
}

}  // namespace

template <typename Real>
SALCR_FOR_EACH_ISA bool is_legal(Row<Real> row) {
  Longs bad = {};
  by_lanes(row.cost, row.cols, row.sign, [&](const Doubles& cost, std::int64_t, int) { bad |= ~(cost > -kInfinity); });
  return !any(bad);
}

template <typename Real>
SALCR_FOR_EACH_ISA bool lower_minima(const Costs<Real>& costs, std::int64_t i, double shift, double* minima,
                                     std::int64_t* cheapest) {
  Longs bad = {};
  by_lanes(costs.row(i), costs.cols, costs.sign, [&](const Doubles& cost, std::int64_t j, int) {
    const Doubles x = cost - shift, before = load<Doubles>(minima + j);
    const Longs lower = x < before;
    bad |= ~(x > -kInfinity);
    store(cheapest + j, lower ? i + Longs{} : load<Longs>(cheapest + j));
    store(minima + j, lower ? x : before);
  });
  return !any(bad);
}

template <typename Real>
SALCR_FOR_EACH_ISA TwoLeast two_least(Row<Real> row) {
  const Doubles none = kInfinity + Doubles{};
  struct {
    Doubles least, second;
    Longs column;
  } parts[2] = {{none, none, {}}, {none, none, {}}};
  const auto see = [&](const Doubles& x, const Longs& j, int part) {
    auto& [least, second, column] = parts[part];
    const Doubles other = x > least ? x : least;
    second = least_of(other, second);
    column = x < least ? j : column;
    least = least_of(x, least);
  };
  by_lanes(row.cost, row.cols, row.sign, [&](const Doubles& cost, std::int64_t j, int part) {
    see(cost - load<Doubles>(row.prices + j), j + kLane, part);
  });
  auto& [least, second, column] = parts[0];
  second = least_of(second, parts[1].second);
  see(parts[1].least, parts[1].column, 0);
  for (int by = kLanes / 2; by > 0; by /= 2) {
    second = least_of(second, turned(second, by));
    see(turned(least, by), turned(column, by), 0);
  }
  return {least[0], second[0], column[0]};
}

template <typename Real>
SALCR_FOR_EACH_ISA std::int64_t find_equal(Row<Real> row, double value, std::int64_t begin, std::int64_t end,
                                           const std::int64_t* room) {
  if (room == nullptr) return find_by_blocks(begin, end, [&](std::int64_t j) { return row(j) == value; });
  return find_by_blocks(begin, end, [&](std::int64_t j) { return (row(j) == value) & (room[j] > 0); });
}

template <typename Real>
SALCR_FOR_EACH_ISA void mark_equal(Row<Real> row, double value, std::uint64_t* bits) {
  for (std::int64_t begin = 0; begin < row.cols; begin += 64) {
    const std::int64_t width = std::min<std::int64_t>(64, row.cols - begin);
    std::uint64_t word = 0;
#pragma omp simd reduction(| : word)
    for (std::int64_t l = 0; l < width; ++l) word |= static_cast<std::uint64_t>(row(begin + l) == value) << l;
    bits[begin / 64] = word;
  }
}

template <typename Real>
SALCR_FOR_EACH_ISA Nearest relax(Row<Real> row, double offset, std::int64_t from, const std::int64_t* room, double* distance,
                                 std::int64_t* source) {
  const Doubles none = kInfinity + Doubles{};
  struct {
    Doubles least, with_room;
    Longs column;
  } parts[2] = {{none, none, {}}, {none, none, {}}};
  by_lanes(row.cost, row.cols, row.sign, [&](const Doubles& cost, std::int64_t j, int part) {
    auto& [least, with_room, column] = parts[part];
    const Doubles x = offset + (cost - load<Doubles>(row.prices + j)), before = load<Doubles>(distance + j);
    const Longs nearer = x < before;
    const Doubles now = nearer ? x : before;
    store(distance + j, now);
    store(source + j, nearer ? from + Longs{} : load<Longs>(source + j));
    const Doubles open = now > -kInfinity ? now : none;
    column = open < least ? j + kLane : column;
    least = least_of(open, least);
    with_room = least_of(load<Longs>(room + j) > 0 ? now : none, with_room);
  });
  auto& [least, with_room, column] = parts[0];
  const auto merge = [&](const Doubles& other, const Doubles& other_with_room, const Longs& there) {
    column = other < least ? there : column;
    least = least_of(other, least);
    with_room = least_of(other_with_room, with_room);
  };
  merge(parts[1].least, parts[1].with_room, parts[1].column);
  for (int by = kLanes / 2; by > 0; by /= 2) merge(turned(least, by), turned(with_room, by), turned(column, by));
  return {least[0], with_room[0], column[0]};
}

SALCR_FOR_EACH_ISA std::int64_t find_value(const double* x, double value, std::int64_t begin, std::int64_t end) {
  return find_by_blocks(begin, end, [&](std::int64_t j) { return x[j] == value; });
}

SALCR_FOR_EACH_ISA double least_with_room(const double* x, const std::int64_t* room, std::int64_t count) {
  double least = kInfinity;
#pragma omp simd reduction(min : least)
  for (std::int64_t j = 0; j < count; ++j) {
    const double open = room[j] > 0 ? x[j] : kInfinity;
    least = open < least ? open : least;
  }
  return least;
}

SALCR_FOR_EACH_ISA std::int64_t find_nearer(const double* x, double offset, const double* distance, double bound,
                                            std::int64_t begin, std::int64_t end) {
  return find_by_blocks(begin, end, [&](std::int64_t j) {
    const double there = offset + x[j];
    return (there < distance[j]) & (there < bound);
  });
}

#define SALCR_INSTANTIATE(Real)                                                                                          \
  template bool is_legal(Row<Real>);                                                                                     \
  template bool lower_minima(const Costs<Real>&, std::int64_t, double, double*, std::int64_t*);                          \
  template TwoLeast two_least(Row<Real>);                                                                                \
  template std::int64_t find_equal(Row<Real>, double, std::int64_t, std::int64_t, const std::int64_t*);                  \
  template void mark_equal(Row<Real>, double, std::uint64_t*);                                                           \
  template Nearest relax(Row<Real>, double, std::int64_t, const std::int64_t*, double*, std::int64_t*);
SALCR_INSTANTIATE(float)
SALCR_INSTANTIATE(double)
#undef SALCR_INSTANTIATE

}  // namespace salcr
