// The kernels around shortest_paths.cuh: a block a problem for a batch, or the whole grid for one large problem.
//
// Every argument is 8 bytes wide, so that one launcher serves all (assignment_cuda.cu, or CuPy where the package was built
// without nvcc); salcr/ops/backends/cuda/assignment.py chooses the geometry and allocates. Compiles under nvcc and NVRTC alone.
//
// Both write, for each problem, the column of each row, the duals of rows and columns, and whether there is a solution; the
// rest is undefined where there is none. Of the matrix nothing is kept: its rows are read again from L2 or memory, as often as
// shortest_paths.cuh says.
#pragma once

#include "shortest_paths.cuh"

namespace salcr {

// Hands out pieces of one piece of memory, each aligned for what lies in it as long as wider types come first.
class Pieces {
 public:
  __device__ explicit Pieces(void* start) : next_(static_cast<char*>(start)) {}

  template <typename T>
  __device__ T* take(long long count) {
    T* const piece = reinterpret_cast<T*>(next_);
    next_ += count * sizeof(T);
    return piece;
  }

 private:
  char* next_;
};

static_assert(sizeof(Offer) == 32 && sizeof(Count) == 4 && sizeof(Candidate) == 16 && sizeof(Expanded) == 24,
              "the sizes below, which salcr/ops/backends/cuda/assignment.py allocates by");
constexpr int kFixedBytes = Scope<false>::kScratch + kStaged * sizeof(Expanded);
static_assert(kFixedBytes == 2568 && kFixedBytes % 8 == 0, "the same, and doubles follow");

// 25 bytes a column, 4 a slot and 8 a row.
__device__ inline State take_state(Pieces& memory, int rows, int columns, int capacity) {
  State state{};
  state.rows = rows;
  state.columns = columns;
  state.capacity = capacity;
  state.price = memory.take<double>(columns);
  state.label = memory.take<double>(columns);
  state.bid = reinterpret_cast<unsigned long long*>(state.label);
  state.via = memory.take<int>(columns);
  state.held = memory.take<int>(columns);
  state.row_of_slot = memory.take<int>(static_cast<long long>(columns) * capacity);
  state.slot_of_row = memory.take<int>(rows);
  state.free_rows = memory.take<int>(rows);
  state.waiting = memory.take<unsigned char>(columns);
  return state;
}

// Block b solves problem b of a batch, state and all in dynamic shared memory:
// 25 columns + 4 columns capacity + 8 rows bytes and 84 for each warp, with kFixedBytes.
template <typename Real>
__device__ void solve_batch(const Real* cost, long long rows, long long columns, long long capacity, long long maximize,
                            long long* row_to_column, double* row_duals, double* column_duals, long long* solved) {
  extern __shared__ double memory[];
  Pieces shared(memory);
  const int warps = blockDim.x / 32;
  void* const scratch = shared.take<char>(Scope<false>::kScratch);
  Expanded* const staged = shared.take<Expanded>(kStaged);
  Offer* const offers = shared.take<Offer>(2 * warps);
  Candidate* const frontier = shared.take<Candidate>(warps);
  Count* const counts = shared.take<Count>(warps + warps % 2);
  const State state = take_state(shared, rows, columns, capacity);
  Scope<false> scope(scratch, nullptr);
  const long long problem = blockIdx.x;
  const Costs<Real> costs{cost + problem * rows * columns, columns, maximize != 0};
  const Solution solution{row_to_column + problem * rows, row_duals + problem * rows, column_duals + problem * columns,
                          solved + problem};
  solve_into(solution, scope, costs, state, Board{offers, counts, frontier, staged});
}

// All blocks of a cooperative launch solve one problem. `workspace` starts with 8 zero bytes, then the offers (64 bytes a
// block), the counts (8) and the state; dynamic shared memory is kFixedBytes and 16 bytes a block of the grid.
template <typename Real>
__device__ void solve_large(const Real* cost, long long rows, long long columns, long long capacity, long long maximize,
                            long long* row_to_column, double* row_duals, double* column_duals, long long* solved,
                            void* workspace) {
  extern __shared__ double memory[];
  Pieces shared(memory), global(workspace);
  const int blocks = gridDim.x;
  void* const scratch = shared.take<char>(Scope<true>::kScratch);
  Expanded* const staged = shared.take<Expanded>(kStaged);
  Candidate* const frontier = shared.take<Candidate>(blocks);
  unsigned* const arrived = global.take<unsigned>(2);
  Offer* const offers = global.take<Offer>(2 * blocks);
  Count* const counts = global.take<Count>(2 * blocks);
  const State state = take_state(global, rows, columns, capacity);
  Scope<true> scope(scratch, arrived);
  const Costs<Real> costs{cost, columns, maximize != 0};
  const Solution solution{row_to_column, row_duals, column_duals, solved};
  solve_into(solution, scope, costs, state, Board{offers, counts, frontier, staged});
}

}  // namespace salcr

constexpr int kThreadsOfBatch = 512;
constexpr int kThreadsOfLarge = 128;

#define SALCR_KERNELS(suffix, Real)                                                                                        \
  extern "C" __global__ void __launch_bounds__(kThreadsOfBatch, 1) assignment_batch_##suffix(                                 \
      const Real* cost, long long rows, long long columns, long long capacity, long long maximize,                         \
      long long* row_to_column, double* row_duals, double* column_duals, long long* solved) {                              \
    salcr::solve_batch(cost, rows, columns, capacity, maximize, row_to_column, row_duals, column_duals, solved);           \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(kThreadsOfLarge, 1) assignment_large_##suffix(                                 \
      const Real* cost, long long rows, long long columns, long long capacity, long long maximize,                         \
      long long* row_to_column, double* row_duals, double* column_duals, long long* solved, void* workspace) {             \
    salcr::solve_large(cost, rows, columns, capacity, maximize, row_to_column, row_duals, column_duals, solved,            \
                       workspace);                                                                                         \
  }

SALCR_KERNELS(float32, float)
SALCR_KERNELS(float64, double)
#undef SALCR_KERNELS
