// Exact assignment of rows to columns by one team of threads: bidding, then shortest augmenting paths.
//
// Problem: every one of `rows` rows gets one of `columns` columns, no column more than `capacity` rows, at the smallest total
// cost; rows <= columns * capacity. Infinite costs are forbidden pairs. Arithmetic is float64 whatever the costs are stored in.
//
// What holds throughout: an assigned row r sits in a column k that is cheapest for it, cost(r, k) - price[k] <= cost(r, j) -
// price[j] for all j (so cost(r, k) - price[k] is its dual), and price <= 0 with price = 0 where a column is not full; where
// rows = columns * capacity every column ends full and prices may have any sign. With all rows assigned that is optimality.
//
// Phase 1, bidding: each free row, one warp a row, reads its row of the costs, finds its cheapest and second cheapest column
// and bids the difference for the cheapest. A column takes the highest bid, lowers its price by it and frees the row it held.
// Rounds end when `kPatience` of them in a row assigned no further row. (Ties make zero bids; so nothing but speed hangs on it.)
// A round reads columns entries for each free row.
//
// Phase 2, one search for each row still free: label[j] is the length of the shortest path found from that row to column j over
// reduced costs. A step expands, from every group of threads at once, the column with the smallest label among the group's own
// that wait for it: reads the cost rows of the rows in it, and every thread lowers the labels of its own columns. A column
// whose label falls again waits again. The smallest waiting label of all is final (reduced costs are not negative), so a
// search takes no more steps than Dijkstra's algorithm has expansions, and far fewer where labels spread over the groups. It
// ends when no waiting label is below that of the nearest column with room. Prices of nearer columns then fall to make
// the path's edges tight, and the rows along it move by one column.
//
// Cost bound: at most kPatience + 1 rounds for each row that gets a column in phase 1, two barriers of the team a round. At
// most rows searches of at most columns steps, one barrier a step and two a search; a step reads at most groups * capacity *
// columns entries. On random costs it is far less: 9,200 barriers in all for 4,000 x 4,000 of them with 32 groups.
// Ties are broken by index everywhere and every sum has one order, so that results do not depend on timing.
#pragma once

#include "problem.cuh"

namespace salcr {

constexpr int kPatience = 16;
constexpr unsigned kFull = 0x80000000u;  // in the rank of a column

template <typename Scope, typename Real>
struct Solver {
  Scope& scope;
  Costs<Real> cost;
  State state;
  Board board;

  // Assigns every row; false where forbidden pairs leave no way to.
  __device__ bool solve() {
    reset();
    int free = bid();
    scope.compact(
        state.rows, [&](int row) { return state.slot_of_row[row] < 0; },
        [&](int row, int place) {
          if (scope.first_block()) state.free_rows[place] = row;
        });
    scope.barrier();
    for (int i = 0; i < free; ++i)
      if (!search(state.free_rows[i])) return false;
    return true;
  }

 private:
  __device__ void reset() {
    scope.each_thread([&](int thread) {
      for (int j = thread; j < state.columns; j += scope.threads()) {
        state.price[j] = 0;
        state.bid[j] = 0;
        state.held[j] = 0;
      }
      for (int row = thread; row < state.rows; row += scope.threads()) state.slot_of_row[row] = -1;
    });
    scope.barrier();
  }

  // Phase 1; returns how many rows are still free.
  __device__ int bid() {
    int free = state.rows;
    for (int stale = 0; free > 0 && stale < kPatience;) {
      scope.each_row(
          state.rows, [&](int row) { return state.slot_of_row[row] < 0; }, [&](int row) { bid_for(row); });
      scope.barrier();
      scope.reduce(board.counts, [&](int thread) { return settle(thread); });
      scope.barrier();
      const int gained = scope.merged(board.counts, scope.groups()).value;
      free -= gained;
      stale = gained > 0 ? 0 : stale + 1;
    }
    return free;
  }

  __device__ void bid_for(int row) {
    const int turn = row % state.columns;
    const BestTwo best = scope.best_two(state.columns, [&](int j) {
      const unsigned away = static_cast<unsigned>(j - turn) & ~kFull;  // those before `turn` come behind
      const unsigned full = state.held[j] == state.capacity ? kFull : 0u;
      return BestTwo{cost(row, j) - state.price[j], infinity(), full | away, j};
    });
    if (best.first == infinity()) return;  // its search will find that it has no column
    const float raise = best.second == infinity() ? 0.0f : rounded_down(best.second - best.first);
    const unsigned long long key = (static_cast<unsigned long long>(bits_of(raise)) << 32) | ~static_cast<unsigned>(row);
    scope.raise_to(&state.bid[best.column], key);
  }

  // The thread's columns take their highest bids. Returns how many more rows have a column now.
  __device__ Count settle(int thread) {
    int gained = 0;
    for (int j = thread; j < state.columns; j += scope.threads()) {
      const unsigned long long key = state.bid[j];
      if (key == 0) continue;
      state.bid[j] = 0;
      const int row = static_cast<int>(~static_cast<unsigned>(key));
      int slot = j * state.capacity;
      if (state.held[j] < state.capacity) {
        slot += state.held[j]++;
        ++gained;
      } else if (state.capacity == 1) {
        state.slot_of_row[state.row_of_slot[slot]] = -1;
      } else {
        continue;  // a lower price would be wrong for the other rows of the column
      }
      state.row_of_slot[slot] = row;
      state.slot_of_row[row] = slot;
      if (state.capacity == 1) state.price[j] -= float_of(static_cast<unsigned>(key >> 32));
    }
    return {gained};
  }

  // Phase 2 for one free row.
  __device__ bool search(int start) {
    scope.reduce(board.offers, [&](int thread) {
      Offer offer = Offer::none();
      for (int j = thread; j < state.columns; j += scope.threads()) {
        state.label[j] = cost(start, j) - state.price[j];
        state.via[j] = start;
        state.waiting[j] = 1;
        offer = Offer::merge(offer, offer_of(j));
      }
      return offer;
    });
    scope.barrier();
    Candidate end = Candidate::none();
    for (int step = 0;; ++step) {
      const Offer* offers = board.offers + (step & 1) * scope.groups();
      end = scope.merged(offers, scope.groups()).room;
      const int count = scope.compact(
          scope.groups(), [&](int group) { return offers[group].next.label < end.label; },
          [&](int group, int place) { board.frontier[place] = offers[group].next; });
      if (count == 0) break;
      scope.each_thread([&](int thread) {
        const Candidate own = offers[scope.group_of(thread)].next;
        if (own.label < end.label && own.column % scope.threads() == thread) state.waiting[own.column] = 0;
      });
      relax(count);
      scope.reduce(board.offers + (~step & 1) * scope.groups(), [&](int thread) {
        Offer offer = Offer::none();
        for (int j = thread; j < state.columns; j += scope.threads()) offer = Offer::merge(offer, offer_of(j));
        return offer;
      });
      scope.barrier();
    }
    if (end.label == infinity()) return false;
    scope.each_thread([&](int thread) {
      for (int j = thread; j < state.columns; j += scope.threads())
        if (state.label[j] < end.label) state.price[j] += state.label[j] - end.label;
      if (thread == 0) augment(start, end.column);
    });
    scope.barrier();
    return true;
  }

  __device__ Offer offer_of(int j) const {
    const Candidate here{state.label[j], j};
    if (state.held[j] < state.capacity) return {here, Candidate::none()};
    return state.waiting[j] ? Offer{Candidate::none(), here} : Offer::none();
  }

  // Follows all edges of the rows in the first `count` columns of the frontier.
  __device__ void relax(int count) {
    const int total = count * state.capacity;
    for (int first = 0; first < total; first += kStaged) {
      if (first > 0) scope.block_barrier();
      const int staged = total - first < kStaged ? total - first : kStaged;
      scope.each_of_block(staged, [&](int i) {
        const Candidate from = board.frontier[(first + i) / state.capacity];
        const int row = state.row_of_slot[from.column * state.capacity + (first + i) % state.capacity];
        board.staged[i] = {from.label, cost(row, from.column) - state.price[from.column], row};
      });
      scope.block_barrier();
      scope.each_thread([&](int thread) {
        for (int j = thread; j < state.columns; j += scope.threads()) relax_column(j, staged);
      });
    }
  }

  __device__ void relax_column(int j, int staged) {
    const double before = state.label[j], price = state.price[j];
    double best = before;
    int via = -1;
#pragma unroll 8
    for (int i = 0; i < staged; ++i) {
      const Expanded from = board.staged[i];
      const double reduced = cost(from.row, j) - price - from.dual;
      const double length = from.label + (reduced > 0 ? reduced : 0);  // never below its start: paths cannot close a circle
      if (length < best) {
        best = length;
        via = from.row;
      }
    }
    if (via < 0) return;
    state.label[j] = best;
    state.via[j] = via;
    state.waiting[j] = 1;
  }

  // Moves every row of the path to the column after it; the last column has room.
  __device__ void augment(int start, int column) {
    int slot = column * state.capacity + state.held[column]++;
    for (int row = -1; row != start; column = slot / state.capacity) {
      row = state.via[column];
      const int left = state.slot_of_row[row];
      state.row_of_slot[slot] = row;
      state.slot_of_row[row] = slot;
      slot = left;
    }
  }
};

template <typename Scope, typename Real>
__device__ void solve_into(const Solution& solution, Scope& scope, const Costs<Real>& cost, const State& state,
                           const Board& board) {
  const bool solved = Solver<Scope, Real>{scope, cost, state, board}.solve();
  scope.each_thread([&](int thread) {
    if (thread == 0) *solution.solved = solved;
    if (!solved) return;
    for (int row = thread; row < state.rows; row += scope.threads()) {
      const int column = state.slot_of_row[row] / state.capacity;
      solution.row_to_column[row] = column;
      solution.row_duals[row] = cost.as_given(cost(row, column) - state.price[column]);
    }
    for (int j = thread; j < state.columns; j += scope.threads()) solution.column_duals[j] = cost.as_given(state.price[j]);
  });
}

}  // namespace salcr
