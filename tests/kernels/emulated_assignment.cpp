// The solver of csrc/cuda on the host: built and called by tests/kernels/emulated.py.
#include <limits>
#include <vector>

#include "shortest_paths.cuh"

namespace {

template <typename Real>
long long solve(const Real* cost, int rows, int columns, int capacity, int maximize, int groups, int threads_per_group,
                int backwards, long long* row_to_column, double* row_duals, double* column_duals, long long* barriers) {
  using namespace salcr;
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  constexpr int kStale = 0x5a5a5a5a;  // a GPU's memory starts as anything
  std::vector<double> price(columns, kNaN);
  std::vector<unsigned long long> bid(columns, ~0ull);
  double* const label = reinterpret_cast<double*>(bid.data());  // as take_state() lets them
  std::vector<int> via(columns, kStale), held(columns, kStale), row_of_slot(columns * capacity, kStale);
  std::vector<int> slot_of_row(rows, kStale), free_rows(rows, kStale);
  std::vector<unsigned char> waiting(columns);
  std::vector<Offer> offers(2 * groups);
  std::vector<Count> counts(groups);
  std::vector<Candidate> frontier(groups);
  std::vector<Expanded> staged(kStaged);
  const State state{rows, columns, capacity, price.data(), label, bid.data(), via.data(), held.data(),
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
