// Pages of a mapped file that were read stay in the process's memory until they are unmapped. Searches read each once and unmap it.
#pragma once
#include <cinttypes>
#include <cstdint>
#include <cstdio>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace salcr {

constexpr std::int64_t kWorthUnmapping = std::int64_t{1} << 26;  // bytes; of less a process may keep the pages

// Whether some memory is a large part of one shared mapping of a file: unmapped, its pages come back as they were. Those of a
// private mapping would come back without what has been written to them, and other memory would be lost.
inline bool is_shared_mapping(const void* begin, std::int64_t bytes) {
#ifdef MADV_POPULATE_READ
  if (bytes < kWorthUnmapping) return false;
  std::FILE* const maps = std::fopen("/proc/self/maps", "r");
  if (maps == nullptr) return false;
  const auto first = reinterpret_cast<std::uintptr_t>(begin);
  bool found = false;
  for (char line[512]; !found && std::fgets(line, sizeof line, maps);) {  // a long path goes on in lines that do not match
    std::uintptr_t low = 0, high = 0;
    char shared = 0;
    std::uint64_t inode = 0;
    if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*c%*c%*c%c %*s %*s %" SCNu64, &low, &high, &shared, &inode) != 4)
      continue;
    found = shared == 's' && inode != 0 && low <= first && first + bytes <= high;
  }
  std::fclose(maps);
  return found;
#else
  return begin == nullptr && bytes < 0;
#endif
}

enum class Pages { kMap, kUnmap };

// Maps the pages of a part of a shared mapping at once, since a prefetch does not reach one that is not mapped; or unmaps them,
// until they are read again.
inline void advise(Pages what, const void* begin, std::int64_t bytes) {
#ifdef MADV_POPULATE_READ
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE)), at = reinterpret_cast<std::uintptr_t>(begin);
  const int advice = what == Pages::kMap ? MADV_POPULATE_READ : MADV_DONTNEED;
  madvise(reinterpret_cast<void*>(at / page * page), at % page + bytes, advice);
#else
  (void)what, (void)begin, (void)bytes;
#endif
}

}  // namespace salcr
