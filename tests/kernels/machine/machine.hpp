// A GPU that executes the PTX of one kernel on the memory of this process, and of all that PTX allows does what harms
// most:
// - warps of a few resident blocks take turns in random order and for a random number of instructions;
// - a cp.async or a wgmma happens as it is issued or only as it is waited for, by chance;
// - of a divergent branch either side goes first;
// - shared memory and registers begin as NaN.
// Faults are
// - reads and writes outside of the launch's tensors or of the block's shared memory, or at addresses that are no
//   multiple of their size;
// - bytes of shared memory that two warps touch without a barrier between, unless both write the same or both read;
// - a store of different numbers to one place by lanes of a warp;
// - barriers that some warps or lanes never reach, exchanges with lanes that are absent, products that nobody waits for.
// Sums of tensor cores are exact and then cut, which is what GPUs do to within their guard bits; TF32 operands are cut.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "values.hpp"

constexpr int kLanes = 32;
constexpr std::uint32_t kEveryLane = ~std::uint32_t{0};
constexpr std::uint32_t kSharedBegin = 0x400;  // address of a block's shared memory

// clang-format off
#define SALCR_OPERATIONS(X) X(add) X(sub) X(mul) X(min) X(max) X(div) X(rem) X(mul_wide) X(mad) X(mad_wide) X(fma) \
  X(neg) X(abs) X(not_) X(and_) X(or_) X(xor_) X(shl) X(shr) X(bfe) X(popc) X(brev) X(leading_zeros) X(prmt) X(selp) \
  X(setp) X(mov) X(pack) X(unpack) X(cvt) X(cvt_pair) X(ex2) X(sqrt) X(rsqrt) X(rcp) X(copysign) X(special) X(param) \
  X(load) X(store) X(load_shared) X(store_shared) X(atom) X(atom_shared) X(copy) X(copy_commit) X(copy_wait) \
  X(shfl) X(redux) X(ballot) X(ldmatrix) X(stmatrix) X(mma) X(wgmma) X(wgmma_commit) X(wgmma_wait) X(bar) X(bra) X(ret) X(nothing)
#define SALCR_FLAGS(X) X(ftz) X(NaN) X(rna) X(rz) X(rmi) X(rpi) X(rzi) X(trans) X(registers) X(trans_b) X(pair)
#define SALCR_COMPARISONS(X) X(eq) X(ne) X(lt) X(le) X(gt) X(ge) X(equ) X(neu) X(ltu) X(leu) X(gtu) X(geu) X(num) X(nan)
#define SALCR_KINDS(X) X(add) X(min) X(max) X(exch) X(cas) X(up) X(down) X(bfly) X(idx)
#define SALCR_SPECIALS(X) X(tid) X(ntid) X(ctaid_x) X(ctaid_y) X(ctaid_z) X(nctaid_x) X(nctaid_y) X(nctaid_z)
// clang-format on
#define SALCR_NAME(name) name,
enum class Operation { SALCR_OPERATIONS(SALCR_NAME) };
enum class Comparison { SALCR_COMPARISONS(SALCR_NAME) };
enum class Kind { SALCR_KINDS(SALCR_NAME) };
enum class Special { SALCR_SPECIALS(SALCR_NAME) };
enum class FlagPlace { SALCR_FLAGS(SALCR_NAME) };
#undef SALCR_NAME
#define SALCR_NAME(name) name = 1 << int(FlagPlace::name),
enum Flag { SALCR_FLAGS(SALCR_NAME) };
#undef SALCR_NAME

// As tests/kernels/ptx.py writes it. Operands come in the order of PTX, the address of a load behind its destinations.
struct Instruction {
  Operation operation;
  Type type, source;  // source: that a conversion reads, or of the elements of a product
  std::int32_t flags;
  std::int32_t choice;  // a comparison, kind, special register, number of a parameter, bytes of a copy, groups that may
                        // be under way, columns of a wgmma, or registers of the first operand of an mma
  std::int32_t offset, offset_from;  // of addresses: that of a copy's source is the second
  std::int32_t predicate, negated;   // a register, or -1
  std::int32_t first, count;         // operands
  std::int32_t target, join;         // of a branch, and where its sides meet
  std::int32_t line;
};

struct Operand {
  std::int32_t is_constant, index;
};

struct Program {
  std::vector<Instruction> code;
  std::vector<Operand> operands;
  std::vector<Bits> constants;  // 32 of each
  int registers;
};

struct Region {
  Bits begin, end;
};

struct Shape {
  std::int32_t grid[3], warps, shared_bytes, every, together;  // every: which of the blocks run; together: at once
};

// How often an instruction ran, of a warp; and if it is one of memory, what all these took: sectors of 32 bytes of
// global memory or passes over the 32 banks of shared memory, and as few as their bytes could take.
struct Count {
  Bits warps, took, fewest;
};

struct Block;
using Work = std::vector<std::function<void()>>;

// Lanes that are at one place of the program until it reaches `join`, where those below go on together with them.
struct Path {
  int at, join;
  std::uint32_t lanes;
};

struct Warp {
  Block* block;
  int id;
  std::vector<Bits> registers;
  std::vector<Path> paths;
  bool done = false, waits = false;
  Work copies, products;
  std::deque<Work> groups_of_copies, groups_of_products;
};

struct Touched {
  int writer = -1, written = -1, read = -1, updated = -1;  // barriers before it; updated: by atom
  Bits readers = 0;
};

struct Block {
  int place[3];
  std::vector<std::uint8_t> shared;
  std::vector<Touched> touched;
  std::vector<Warp> warps;
  int waiting = 0, done = 0, barriers = 0;
};

class Machine {
 public:
  Machine(const Program& program, const Bits* parameters, const Shape& shape, std::vector<Region> tensors, Bits seed,
          Count* counts)
      : program_(program),
        parameters_(parameters),
        shape_(shape),
        tensors_(std::move(tensors)),
        random_(seed),
        counts_(counts) {}

  // Raises Fault; where() tells the line and the thread.
  void run(Bits most_steps);
  std::string where() const;

 private:
  void admit(std::int64_t number);
  void step(Warp& warp);
  void branch(Warp& warp, const Instruction& in, std::uint32_t lanes);
  void leave(Warp& warp, std::uint32_t lanes);
  void execute(Warp& warp, const Instruction& in, std::uint32_t lanes);
  void calculate(Warp& warp, const Instruction& in, std::uint32_t lanes);
  void convert(Warp& warp, const Instruction& in, std::uint32_t lanes);
  void load(Warp& warp, const Instruction& in, std::uint32_t lanes);
  void store(Warp& warp, const Instruction& in, std::uint32_t lanes);
  void update(Warp& warp, const Instruction& in, std::uint32_t lanes);
  void copy(Warp& warp, const Instruction& in, std::uint32_t lanes);
  void exchange(Warp& warp, const Instruction& in, std::uint32_t lanes);
  void move_matrices(Warp& warp, const Instruction& in);
  void multiply(Warp& warp, const Instruction& in);
  void multiply_shared(Warp& warp, const Instruction& in, Bits descriptor_a, Bits descriptor_b, bool adds);

  const Bits* source(const Warp& warp, const Instruction& in, int i) const {
    const Operand& operand = program_.operands[in.first + i];
    return (operand.is_constant ? program_.constants : warp.registers).data() + std::size_t(operand.index) * kLanes;
  }
  Bits* target(Warp& warp, const Instruction& in, int i) {
    const Operand& operand = program_.operands[in.first + i];
    return operand.is_constant ? nowhere_ : warp.registers.data() + std::size_t(operand.index) * kLanes;
  }
  std::uint8_t* global(Bits address, int bytes);
  std::uint8_t* shared(Warp& warp, Bits address, int bytes);
  std::uint8_t* read_shared(Warp& warp, Bits address, int bytes);
  void write_shared(Warp& warp, Bits address, const std::uint8_t* value, int bytes);
  std::uint8_t* update_shared(Warp& warp, Bits address, int bytes);
  void count(const Warp& warp, const Instruction& in, std::uint32_t lanes);
  bool by_chance() { return random_() & 1; }

  const Program& program_;
  const Bits* parameters_;
  const Shape shape_;
  const std::vector<Region> tensors_;
  Region last_{1, 0};
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Block>> blocks_;
  Count* counts_;  // one for each instruction, or null
  Warp* current_ = nullptr;
  int line_ = 0;
  Bits nowhere_[kLanes];
};

template <class F>
void for_lanes(std::uint32_t lanes, F f) {
  if (lanes == kEveryLane) {
    for (int l = 0; l < kLanes; ++l) f(l);
  } else {
    for (int l = 0; l < kLanes; ++l) {
      if (lanes >> l & 1) f(l);
    }
  }
}
