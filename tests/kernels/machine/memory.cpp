// Instructions that read and write memory, or another lane's registers.
#include "machine.hpp"

namespace {
constexpr int kWidest = 32;  // bytes that a lane loads or stores at a time

bool within(const Region& region, Bits address, int bytes) {
  return address >= region.begin && address + Bits(bytes) <= region.end;
}
}  // namespace

std::uint8_t* Machine::global(Bits address, int bytes) {
  if (address % Bits(bytes) != 0) fault("%d bytes of memory at an address that they do not divide", bytes);
  if (!within(last_, address, bytes)) {
    const auto found =
        std::find_if(tensors_.begin(), tensors_.end(), [&](auto& x) { return within(x, address, bytes); });
    if (found == tensors_.end()) fault("%d bytes of memory outside of every tensor", bytes);
    last_ = *found;
  }
  return reinterpret_cast<std::uint8_t*>(address);
}

std::uint8_t* Machine::shared(Warp& warp, Bits address, int bytes) {
  const std::uint32_t at = std::uint32_t(address);
  if (at % std::uint32_t(bytes) != 0) fault("%d bytes of shared memory at an address that they do not divide", bytes);
  if (at < kSharedBegin || at - kSharedBegin + bytes > std::uint32_t(shape_.shared_bytes)) {
    fault("%d bytes of shared memory at %d of %d", bytes, int(at - kSharedBegin), shape_.shared_bytes);
  }
  return warp.block->shared.data() + (at - kSharedBegin);
}

std::uint8_t* Machine::read_shared(Warp& warp, Bits address, int bytes) {
  Block& block = *warp.block;
  std::uint8_t* memory = shared(warp, address, bytes);
  Touched* touched = block.touched.data() + (memory - block.shared.data());
  for (Touched* at = touched; at < touched + bytes; ++at) {
    if (at->updated == block.barriers) {
      fault("byte %d of shared memory, updated since the last barrier", int(at - block.touched.data()));
    }
    if (at->written == block.barriers && at->writer != warp.id) {
      fault("byte %d of shared memory, which warp %d wrote since the last barrier", int(at - block.touched.data()),
            at->writer);
    }
    if (at->read != block.barriers) at->read = block.barriers, at->readers = 0;
    at->readers |= Bits{1} << warp.id;
  }
  return memory;
}

void Machine::write_shared(Warp& warp, Bits address, const std::uint8_t* value, int bytes) {
  Block& block = *warp.block;
  std::uint8_t* memory = shared(warp, address, bytes);
  Touched* touched = block.touched.data() + (memory - block.shared.data());
  for (int i = 0; i < bytes; ++i) {
    Touched& at = touched[i];
    const bool others_read = at.read == block.barriers && at.readers & ~(Bits{1} << warp.id);
    const bool another_wrote = (at.written == block.barriers && at.writer != warp.id) || at.updated == block.barriers;
    if (memory[i] != value[i] && (others_read || another_wrote)) {
      fault("byte %d of shared memory, which another warp touched since the last barrier",
            int(&at - block.touched.data()));
    }
    at.writer = warp.id, at.written = block.barriers;
  }
  std::memcpy(memory, value, bytes);
}

// Warps may update the same place in any order, and neither read nor write it before the next barrier.
std::uint8_t* Machine::update_shared(Warp& warp, Bits address, int bytes) {
  Block& block = *warp.block;
  std::uint8_t* memory = shared(warp, address, bytes);
  Touched* touched = block.touched.data() + (memory - block.shared.data());
  for (Touched* at = touched; at < touched + bytes; ++at) {
    const bool others_read = at->read == block.barriers && at->readers & ~(Bits{1} << warp.id);
    if (others_read || (at->written == block.barriers && at->writer != warp.id)) {
      fault("byte %d of shared memory, which another warp touched since the last barrier",
            int(at - block.touched.data()));
    }
    at->updated = block.barriers;
  }
  return memory;
}

void Machine::load(Warp& warp, const Instruction& in, std::uint32_t lanes) {
  const int parts = in.count - 1, bytes = size_of(in.type);
  Bits addresses[kLanes];
  std::memcpy(addresses, source(warp, in, parts), sizeof addresses);  // a destination may be the address
  for_lanes(lanes, [&](int l) {
    const Bits address = addresses[l] + Bits(std::int64_t{in.offset});
    const std::uint8_t* memory =
        in.operation == Operation::load ? global(address, bytes * parts) : read_shared(warp, address, bytes * parts);
    for (int i = 0; i < parts; ++i) {
      Bits bits = 0;
      std::memcpy(&bits, memory + i * bytes, bytes);
      target(warp, in, i)[l] = in.type == Type::s32 ? Bits(integer(bits, in.type)) : bits;
    }
  });
}

void Machine::store(Warp& warp, const Instruction& in, std::uint32_t lanes) {
  const int parts = in.count - 1, bytes = size_of(in.type), all = bytes * parts;
  Bits addresses[kLanes];
  std::uint8_t values[kLanes][kWidest];
  for_lanes(lanes, [&](int l) {
    addresses[l] = source(warp, in, 0)[l] + Bits(std::int64_t{in.offset});
    for (int i = 0; i < parts; ++i) std::memcpy(values[l] + i * bytes, &source(warp, in, 1 + i)[l], bytes);
    for (int other = 0; other < l; ++other) {
      if (lanes >> other & 1 && addresses[other] == addresses[l] && std::memcmp(values[other], values[l], all) != 0) {
        fault("lanes %d and %d store different numbers at one place", other, l);
      }
    }
  });
  for_lanes(lanes, [&](int l) {
    if (in.operation == Operation::store) {
      std::memcpy(global(addresses[l], all), values[l], all);
    } else {
      write_shared(warp, addresses[l], values[l], all);
    }
  });
}

void Machine::update(Warp& warp, const Instruction& in, std::uint32_t lanes) {
  const int bytes = size_of(in.type);
  Bits* before = target(warp, in, 0);
  for_lanes(lanes, [&](int l) {
    const Bits address = source(warp, in, 1)[l] + Bits(std::int64_t{in.offset});
    std::uint8_t* memory =
        in.operation == Operation::atom ? global(address, bytes) : update_shared(warp, address, bytes);
    Bits old = 0;
    std::memcpy(&old, memory, bytes);
    const Bits operand = source(warp, in, 2)[l];
    const __int128 x = integer(old, in.type), y = integer(operand, in.type);
    Bits value;
    switch (Kind(in.choice)) {
      case Kind::add: value = Bits(x + y); break;
      case Kind::min: value = Bits(std::min(x, y)); break;
      case Kind::max: value = Bits(std::max(x, y)); break;
      case Kind::exch: value = operand; break;
      case Kind::cas: value = x == y ? source(warp, in, 3)[l] : old; break;
      default: fault("an unknown atomic update");
    }
    std::memcpy(memory, &value, bytes);
    before[l] = old;
  });
}

void Machine::copy(Warp& warp, const Instruction& in, std::uint32_t lanes) {
  const int bytes = in.choice;
  for_lanes(lanes, [&](int l) {
    const Bits to = source(warp, in, 0)[l] + Bits(std::int64_t{in.offset});
    const Bits from = source(warp, in, 1)[l] + Bits(std::int64_t{in.offset_from});
    const Bits count = in.count > 2 ? source(warp, in, 2)[l] & ones(4) : Bits(bytes);  // the rest is 0
    if (count != 0 && count != Bits(bytes)) fault("a copy of %d of %d bytes", int(count), bytes);
    std::uint8_t* out = shared(warp, to, bytes);
    const std::uint8_t* in_memory = count == 0 ? nullptr : global(from, bytes);
    auto work = [=] { in_memory == nullptr ? std::memset(out, 0, bytes) : std::memcpy(out, in_memory, bytes); };
    by_chance() ? work() : warp.copies.push_back(work);
  });
}

void Machine::exchange(Warp& warp, const Instruction& in, std::uint32_t lanes) {
  Bits values[kLanes];
  std::memcpy(values, source(warp, in, 1), sizeof values);
  Bits* out = target(warp, in, 0);
  const std::uint32_t members = std::uint32_t(source(warp, in, in.count - 1)[__builtin_ctz(lanes)]);
  if (members != lanes) fault("an exchange of lanes %x by lanes %x", members, lanes);
  if (in.operation == Operation::ballot) {
    Bits those = 0;
    for_lanes(lanes, [&](int l) { those |= (values[l] & 1) << l; });
    return for_lanes(lanes, [&](int l) { out[l] = those; });
  }
  if (in.operation == Operation::redux) {
    __int128 all = integer(values[__builtin_ctz(lanes)], in.type);
    for_lanes(lanes & (lanes - 1), [&](int l) {
      const __int128 value = integer(values[l], in.type);
      all = Kind(in.choice) == Kind::add   ? all + value
            : Kind(in.choice) == Kind::min ? std::min(all, value)
                                           : std::max(all, value);
    });
    return for_lanes(lanes, [&](int l) { out[l] = Bits(all) & ones(4); });
  }
  for_lanes(lanes, [&](int l) {
    const int by = int(source(warp, in, 2)[l] & 31), limits = int(source(warp, in, 3)[l]);
    const int clamp = limits & 31, segment = limits >> 8 & 31, bound = (l & segment) | (clamp & ~segment);
    int from;
    switch (Kind(in.choice)) {
      case Kind::up: from = l - by >= bound ? l - by : l; break;
      case Kind::down: from = l + by <= bound ? l + by : l; break;
      case Kind::bfly: from = (l ^ by) <= bound ? l ^ by : l; break;
      default: from = (l & segment) | (by & ~segment); from = from <= bound ? from : l;
    }
    if (!(lanes >> from & 1)) fault("lane %d reads lane %d, which is absent", l, from);
    out[l] = values[from] & ones(4);
  });
}

// Matrices of 8 x 8 halves: lane 4 r + c holds columns 2 c and 2 c + 1 of row r, lane 8 i + r the address of row r of
// the i-th.
void Machine::move_matrices(Warp& warp, const Instruction& in) {
  const bool loads = in.operation == Operation::ldmatrix;
  const int matrices = in.count - 1;
  Bits addresses[kLanes];
  std::memcpy(addresses, source(warp, in, loads ? matrices : 0), sizeof addresses);
  for (int i = 0; i < matrices; ++i) {
    std::uint16_t matrix[8][8];
    auto element = [&](int l, int h) -> std::uint16_t& {
      const int row = l / 4, column = 2 * (l % 4) + h;
      return in.flags & trans ? matrix[column][row] : matrix[row][column];
    };
    auto address = [&](int row) { return addresses[8 * i + row] + Bits(std::int64_t{in.offset}); };
    if (loads) {
      for (int row = 0; row < 8; ++row) std::memcpy(matrix[row], read_shared(warp, address(row), 16), 16);
      Bits* out = target(warp, in, i);
      for (int l = 0; l < kLanes; ++l) out[l] = element(l, 0) | Bits{element(l, 1)} << 16;
    } else {
      const Bits* value = source(warp, in, 1 + i);
      for (int l = 0; l < kLanes; ++l)
        element(l, 0) = std::uint16_t(value[l]), element(l, 1) = std::uint16_t(value[l] >> 16);
      for (int row = 0; row < 8; ++row)
        write_shared(warp, address(row), reinterpret_cast<std::uint8_t*>(matrix[row]), 16);
    }
  }
}
