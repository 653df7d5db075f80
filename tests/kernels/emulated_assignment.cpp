// The solver of csrc/cuda on the host: built and called by tests/kernels/emulated.py.
#include <vector>

#include "shortest_paths.cuh"

namespace {

template <typename Real>
long long solve(const Real* cost, int rows, int columns, int capacity, int maximize, int groups, int threads_per_group,
                int backwards, long long* row_to_column, double* row_duals, double* column_duals, long long* barriers) {
  using namespace salcr;
  std::vector<double> price(columns), label(columns);
  std::vector<unsigned long long> bid(columns);
  std::vector<int> via(columns), held(columns), row_of_slot(columns * capacity), slot_of_row(rows), free_rows(rows);
  std::vector<unsigned char> waiting(columns);
  std::vector<Offer> offers(2 * groups);
  std::vector<Count> counts(groups);
  std::vector<Candidate> frontier(groups);
  std::vector<Expanded> staged(kStaged);
  const State state{rows, columns, capacity, price.data(), label.data(), bid.data(), via.data(), held.data(),
                    waiting.data(), row_of_slot.data(), slot_of_row.data(), free_rows.data()};
  const Board board{offers.data(), counts.data(), frontier.data(), staged.data()};
  EmulatedScope scope(groups, threads_per_group, backwards != 0);
  long long solved = -1;
  const Solution solution{row_to_column, row_duals, column_duals, &solved};
  solve_into(solution, scope, Costs<Real>{cost, columns, maximize != 0}, state, board);
  *barriers = scope.barriers();
  return solved;
}

}  // namespace

#define EXPORT(name, Real)                                                                                              \
  extern "C" long long name(const Real* cost, int rows, int columns, int capacity, int maximize, int groups,            \
                            int threads_per_group, int backwards, long long* row_to_column, double* row_duals,          \
                            double* column_duals, long long* barriers) {                                                \
    return solve(cost, rows, columns, capacity, maximize, groups, threads_per_group, backwards, row_to_column,          \
                 row_duals, column_duals, barriers);                                                                    \
  }
EXPORT(solve_float32, float)
EXPORT(solve_float64, double)
