// The order in which warps run, branches and barriers; and what ctypes calls.
#include "machine.hpp"

namespace {
constexpr Bits kPoison = 0x7ff7777777c77777;  // a NaN in float64 and in float32
constexpr int kMostResident = 4, kMostAtOnce = 400;

void finish(std::deque<Work>& groups, std::size_t left) {
  for (; groups.size() > left; groups.pop_front()) {
    for (auto& work : groups.front()) work();
  }
}

void commit(Work& open, std::deque<Work>& groups) {
  groups.push_back(std::move(open));
  open.clear();
}
}  // namespace

void Machine::run(Bits most_steps) {
  const std::int64_t count = std::int64_t{shape_.grid[0]} * shape_.grid[1] * shape_.grid[2];
  const std::size_t resident = shape_.together ? std::size_t(count) : 1 + random_() % kMostResident;
  Bits steps = 0;
  for (std::int64_t next = 0; next < count || !blocks_.empty();) {
    for (; blocks_.size() < resident && next < count; next += shape_.every) admit(next);
    const std::size_t chosen = random_() % blocks_.size();
    Block& block = *blocks_[chosen];
    const int first = int(random_() % shape_.warps);
    current_ = nullptr;
    for (int i = 0; i < shape_.warps && current_ == nullptr; ++i) {
      Warp& warp = block.warps[(first + i) % shape_.warps];
      if (!warp.done && !warp.waits) current_ = &warp;
    }
    for (int left = 1 + int(random_() % kMostAtOnce); left > 0 && !current_->done && !current_->waits; --left) {
      if (++steps > most_steps) fault("more than %llu steps", static_cast<unsigned long long>(most_steps));
      step(*current_);
    }
    if (block.waiting > 0 && block.waiting + block.done == shape_.warps) {
      if (block.done > 0) fault("a barrier that %d warps never reach", block.done);
      block.waiting = 0, ++block.barriers;
      for (Warp& warp : block.warps) warp.waits = false;
    }
    if (block.done == shape_.warps) blocks_.erase(blocks_.begin() + std::ptrdiff_t(chosen));
  }
}

std::string Machine::where() const {
  if (current_ == nullptr) return "before the first instruction";
  const int* place = current_->block->place;
  char text[100];
  std::snprintf(text, sizeof text, "line %d, block (%d, %d, %d), warp %d", line_, place[0], place[1], place[2],
                current_->id);
  return text;
}

void Machine::admit(std::int64_t number) {
  auto block = std::make_unique<Block>();
  for (int axis = 0; axis < 3; number /= shape_.grid[axis++]) block->place[axis] = int(number % shape_.grid[axis]);
  block->shared.assign(shape_.shared_bytes, 0xff);
  block->touched.resize(shape_.shared_bytes);
  block->warps.resize(shape_.warps);
  for (int id = 0; id < shape_.warps; ++id) {
    Warp& warp = block->warps[id];
    warp.block = block.get(), warp.id = id;
    warp.registers.assign(std::size_t(program_.registers) * kLanes, kPoison);
    warp.paths.push_back({0, -1, kEveryLane});
  }
  blocks_.push_back(std::move(block));
}

void Machine::step(Warp& warp) {
  Path& path = warp.paths.back();
  if (path.at == path.join) return warp.paths.pop_back();
  const Instruction& in = program_.code[path.at];
  line_ = in.line;
  std::uint32_t lanes = path.lanes;
  if (in.predicate >= 0) {
    const Bits* holds = warp.registers.data() + std::size_t(in.predicate) * kLanes;
    for (int l = 0; l < kLanes; ++l) lanes &= ~(std::uint32_t((holds[l] & 1) == Bits(in.negated)) << l);
  }
  if (counts_ != nullptr && lanes != 0) count(warp, in, lanes);
  if (in.operation == Operation::bra) return branch(warp, in, lanes);
  if (in.operation == Operation::ret) return leave(warp, lanes);
  if (in.operation == Operation::bar) {
    if (lanes != kEveryLane) fault("a barrier of lanes %x", lanes);
    warp.waits = true, ++warp.block->waiting;
  }
  ++path.at;
  if (lanes != 0) execute(warp, in, lanes);
}

void Machine::branch(Warp& warp, const Instruction& in, std::uint32_t lanes) {
  Path& path = warp.paths.back();
  const std::uint32_t others = path.lanes & ~lanes;
  const int next = path.at + 1;
  if (others == 0 || lanes == 0) {
    path.at = lanes != 0 ? in.target : next;
    return;
  }
  path.at = in.join;
  Path sides[] = {{next, in.join, others}, {in.target, in.join, lanes}};
  if (by_chance()) std::swap(sides[0], sides[1]);
  for (const Path& side : sides) {
    if (side.at != in.join) warp.paths.push_back(side);
  }
}

void Machine::leave(Warp& warp, std::uint32_t lanes) {
  if (lanes != kEveryLane) fault("lanes %x return alone", lanes);
  if (!warp.products.empty() || !warp.groups_of_products.empty()) fault("nobody waits for a wgmma");
  warp.done = true, ++warp.block->done;
}

void Machine::execute(Warp& warp, const Instruction& in, std::uint32_t lanes) {
  switch (in.operation) {
    case Operation::nothing:
    case Operation::bar: return;
    case Operation::cvt:
    case Operation::cvt_pair: return convert(warp, in, lanes);
    case Operation::load:
    case Operation::load_shared: return load(warp, in, lanes);
    case Operation::store:
    case Operation::store_shared: return store(warp, in, lanes);
    case Operation::atom:
    case Operation::atom_shared: return update(warp, in, lanes);
    case Operation::copy: return copy(warp, in, lanes);
    case Operation::copy_commit: return commit(warp.copies, warp.groups_of_copies);
    case Operation::copy_wait: return finish(warp.groups_of_copies, in.choice);
    case Operation::wgmma_commit: return commit(warp.products, warp.groups_of_products);
    case Operation::wgmma_wait: return finish(warp.groups_of_products, in.choice);
    case Operation::shfl:
    case Operation::redux:
    case Operation::ballot: return exchange(warp, in, lanes);
    case Operation::ldmatrix:
    case Operation::stmatrix:
    case Operation::mma:
    case Operation::wgmma:
      if (lanes != kEveryLane) fault("an instruction of whole warps by lanes %x", lanes);
      return in.operation == Operation::ldmatrix || in.operation == Operation::stmatrix ? move_matrices(warp, in)
                                                                                        : multiply(warp, in);
    case Operation::special:
      return for_lanes(lanes, [&](int l) {
        const int *place = warp.block->place, *grid = shape_.grid;
        const int values[] = {
            warp.id * kLanes + l, shape_.warps * kLanes, place[0], place[1], place[2], grid[0], grid[1], grid[2]};
        target(warp, in, 0)[l] = Bits(values[in.choice]);
      });
    case Operation::param: {
      const Bits bits = parameters_[in.choice] & ones(size_of(in.type));
      const Bits value = in.type == Type::s32 ? Bits(std::int64_t{get<std::int32_t>(bits)}) : bits;
      return for_lanes(lanes, [&](int l) { target(warp, in, 0)[l] = value; });
    }
    default: return calculate(warp, in, lanes);
  }
}

extern "C" {
// The number of a name in one of the lists of the headers, or -1.
int number_of(const char* list, const char* name) {
#define SALCR_NAME(name, ...) #name,
  static const char* const types[] = {SALCR_TYPES(SALCR_NAME) nullptr};
  static const char* const operations[] = {SALCR_OPERATIONS(SALCR_NAME) nullptr};
  static const char* const flags[] = {SALCR_FLAGS(SALCR_NAME) nullptr};
  static const char* const comparisons[] = {SALCR_COMPARISONS(SALCR_NAME) nullptr};
  static const char* const kinds[] = {SALCR_KINDS(SALCR_NAME) nullptr};
  static const char* const specials[] = {SALCR_SPECIALS(SALCR_NAME) nullptr};
#undef SALCR_NAME
  const std::string wanted = list;
  const char* const* names = wanted == "type"         ? types
                             : wanted == "operation"  ? operations
                             : wanted == "flag"       ? flags
                             : wanted == "comparison" ? comparisons
                             : wanted == "kind"       ? kinds
                                                      : specials;
  for (int i = 0; names[i] != nullptr; ++i) {
    if (std::strcmp(names[i], name) == 0) return i;
  }
  return -1;
}

Program* assemble(const Instruction* code, int length, const Operand* operands, int count, const Bits* constants,
                  int different, int registers) {
  auto* program = new Program{{code, code + length}, {operands, operands + count}, {}, registers};
  for (int i = 0; i < different; ++i) program->constants.insert(program->constants.end(), kLanes, constants[i]);
  return program;
}

// 0, or 1 and what went wrong in `message`. `tensors` are pairs of addresses.
int launch(const Program* program, const Bits* parameters, const Shape* shape, const Bits* tensors, int count,
           Bits seed, Bits most_steps, Count* counts, char* message, int length) {
  std::vector<Region> regions;
  for (int i = 0; i < count; ++i) regions.push_back({tensors[2 * i], tensors[2 * i + 1]});
  Machine machine(*program, parameters, *shape, std::move(regions), seed, counts);
  try {
    machine.run(most_steps);
  } catch (const Fault& error) {
    std::snprintf(message, length, "%s: %s", machine.where().c_str(), error.what());
    return 1;
  }
  return 0;
}
}
