// What instructions of memory take.
#include <set>

#include "machine.hpp"

namespace {
constexpr Bits kSector = 32, kWord = 4, kBanks = 32;

// Lanes of 8 and of 16 bytes go in halves and quarters of a warp. Words of one bank go one after the other, each once.
void add_passes(const Bits* addresses, std::uint32_t lanes, int bytes, Count& to) {
  const int together = bytes <= int(kWord) ? kLanes : kLanes * int(kWord) / bytes;
  for (int first = 0; first < kLanes; first += together) {
    std::set<Bits> banks[kBanks];
    std::size_t words = 0, most = 0;
    for (int l = first; l < first + together; ++l) {
      if (!(lanes >> l & 1)) continue;
      for (Bits word = addresses[l] / kWord; word <= (addresses[l] + Bits(bytes) - 1) / kWord; ++word) {
        words += banks[word % kBanks].insert(word).second;
      }
    }
    for (const auto& bank : banks) most = std::max(most, bank.size());
    to.took += most, to.fewest += (words + kBanks - 1) / kBanks;
  }
}

void add_sectors(const Bits* addresses, std::uint32_t lanes, int bytes, Count& to) {
  std::set<Bits> sectors, different;
  for_lanes(lanes, [&](int l) {
    different.insert(addresses[l]);
    for (Bits at = addresses[l] / kSector; at <= (addresses[l] + Bits(bytes) - 1) / kSector; ++at) sectors.insert(at);
  });
  to.took += sectors.size(), to.fewest += (different.size() * Bits(bytes) + kSector - 1) / kSector;
}
}  // namespace

void Machine::count(const Warp& warp, const Instruction& in, std::uint32_t lanes) {
  Count& to = counts_[&in - program_.code.data()];
  ++to.warps;
  Bits addresses[kLanes];
  auto find = [&](int operand, int offset) {
    for (int l = 0; l < kLanes; ++l) addresses[l] = source(warp, in, operand)[l] + Bits(std::int64_t{offset});
  };
  const int last = in.count - 1, bytes = size_of(in.type);
  switch (in.operation) {
    case Operation::load: return find(last, in.offset), add_sectors(addresses, lanes, bytes * last, to);
    case Operation::store: return find(0, in.offset), add_sectors(addresses, lanes, bytes * last, to);
    case Operation::atom: return find(1, in.offset), add_sectors(addresses, lanes, bytes, to);
    case Operation::copy: return find(1, in.offset_from), add_sectors(addresses, lanes, in.choice, to);
    case Operation::load_shared: return find(last, in.offset), add_passes(addresses, lanes, bytes * last, to);
    case Operation::atom_shared: return find(1, in.offset), add_passes(addresses, lanes, bytes, to);
    case Operation::store_shared: return find(0, in.offset), add_passes(addresses, lanes, bytes * last, to);
    case Operation::ldmatrix:
    case Operation::stmatrix:
      find(in.operation == Operation::ldmatrix ? last : 0, in.offset);
      for (int i = 0; i < last; ++i) add_passes(addresses, std::uint32_t{0xff} << 8 * i, 16, to);
      return;
    default: return;
  }
}
