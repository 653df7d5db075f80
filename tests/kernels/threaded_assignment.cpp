// Solves small problems with the real scope.cuh on host threads, as a block and as a grid, and compares the two and the
// proof of optimality. tests/kernels/test_threaded_assignment.py builds it with ThreadSanitizer.
#include <cstdio>
#include <random>

#include "threads.hpp"
// comes first: it stands in for CUDA
#include "shortest_paths.cuh"

using namespace salcr;

struct Answer {
  std::vector<long long> columns;
  std::vector<double> row_duals, column_duals;
  long long solved = -1;
};

template <bool kGrid>
Answer solve(const std::vector<float>& cost, int rows, int columns, int capacity, int blocks, int warps) {
  blockDim.x = 32 * warps;
  gridDim.x = blocks;
  const int groups = kGrid ? blocks : warps;
  Answer answer{std::vector<long long>(rows), std::vector<double>(rows), std::vector<double>(columns)};
  std::vector<double> price(columns), label(columns);
  std::vector<unsigned long long> bid(columns);
  std::vector<int> via(columns), held(columns), row_of_slot(columns * capacity), slot_of_row(rows), free_rows(rows);
  std::vector<unsigned char> waiting(columns);
  const State state{rows, columns, capacity, price.data(), label.data(), bid.data(), via.data(), held.data(),
                    waiting.data(), row_of_slot.data(), slot_of_row.data(), free_rows.data()};
  std::vector<Offer> offers(2 * groups);
  std::vector<Count> counts(groups);
  const Solution solution{answer.columns.data(), answer.row_duals.data(), answer.column_duals.data(), &answer.solved};
  unsigned arrived = 0;
  struct Block {
    explicit Block(int warps, int groups) : barrier(32 * warps), warps(warps), frontier(groups) {}
    Barrier barrier;
    std::vector<Warp> warps;
    std::vector<Candidate> frontier;
    Expanded staged[kStaged];
    double scratch[Scope<kGrid>::kScratch / 8];
  };
  std::vector<std::unique_ptr<Block>> team;
  for (int b = 0; b < blocks; ++b) team.push_back(std::make_unique<Block>(warps, groups));
  std::vector<std::thread> threads;
  for (int i = 0; i < 32 * warps * blocks; ++i)
    threads.emplace_back([&, i] {
      blockIdx.x = i / blockDim.x;
      threadIdx.x = i % blockDim.x;
      Block& block = *team[blockIdx.x];
      own_block = &block.barrier;
      own_warp = &block.warps[threadIdx.x / 32];
      Scope<kGrid> scope(block.scratch, &arrived);
      solve_into(solution, scope, Costs<float>{cost.data(), columns, false}, state,
                 Board{offers.data(), counts.data(), block.frontier.data(), block.staged});
    });
  for (std::thread& thread : threads) thread.join();
  return answer;
}

int main() {
  std::mt19937 generator(0);
  std::uniform_real_distribution<float> uniform;
  const int sizes[][3] = {{8, 8, 1}, {11, 4, 3}};
  for (const auto& [rows, columns, capacity] : sizes) {
    std::vector<float> cost(rows * columns);
    for (float& x : cost) x = uniform(generator);
    const Answer block = solve<false>(cost, rows, columns, capacity, 1, 2);
    const Answer grid = solve<true>(cost, rows, columns, capacity, 2, 1);
    double total = 0, other = 0, dual = 0, slack = 1;
    for (int i = 0; i < rows; ++i) {
      total += cost[i * columns + block.columns[i]];
      other += cost[i * columns + grid.columns[i]];
      dual += block.row_duals[i];
      for (int j = 0; j < columns; ++j)
        slack = std::min(slack, cost[i * columns + j] - block.row_duals[i] - block.column_duals[j]);
    }
    for (double x : block.column_duals) dual += capacity * x;
    std::printf("%d x %d: totals %.9g %.9g, duals %.9g, slack %.3g\n", rows, columns, total, other, dual, slack);
    if (block.solved != 1 || grid.solved != 1 || std::abs(total - other) > 1e-9 || std::abs(total - dual) > 1e-9 ||
        slack < -1e-9)
      return 1;
  }
  return 0;
}
