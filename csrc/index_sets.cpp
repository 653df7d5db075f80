// Intersections and unions of index sets: the rows are merged, so that every entry is looked at once.

#include "index_sets.hpp"

#include <algorithm>
#include <limits>

#include "parallel.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kRows = 64;  // a task
constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();

// Where a merge stands in a row; past its last entry it shows kNone.
struct Cursor {
  const std::int64_t *at, *end;

  std::int64_t entry() const { return at == end || *at < 0 ? kNone : *at; }
};

// Calls merge(cursors, out) for every row; what it returns is how many entries it wrote, and -1 fills the rest.
template <typename Merge>
void merge_rows(const std::vector<IndexSets>& sets, std::int64_t rows, std::int64_t width, std::int64_t* out, int threads,
                Merge merge) {
  parallel_chunks(rows, kRows, threads, [&](std::int64_t first, std::int64_t last, int) {
    std::vector<Cursor> cursors(sets.size());
    for (std::int64_t row = first; row < last; ++row) {
      for (std::size_t s = 0; s < sets.size(); ++s) {
        const std::int64_t* begin = sets[s].entries + row * sets[s].width;
        cursors[s] = {begin, begin + sets[s].width};
      }
      std::int64_t* result = out + row * width;
      std::fill(merge(cursors, result), result + width, -1);
    }
  });
}

}  // namespace

void intersect_sets(const std::vector<IndexSets>& sets, std::int64_t rows, std::int64_t width, std::int64_t* out,
                    int threads) {
  merge_rows(sets, rows, width, out, threads, [](std::vector<Cursor>& cursors, std::int64_t* result) {
    for (std::int64_t wanted; (wanted = cursors[0].entry()) != kNone; ++cursors[0].at) {
      bool everywhere = true;
      for (std::size_t s = 1; s < cursors.size(); ++s) {
        while (cursors[s].entry() < wanted) ++cursors[s].at;
        everywhere &= cursors[s].entry() == wanted;
      }
      if (everywhere) *result++ = wanted;
    }
    return result;
  });
}

void unite_sets(const std::vector<IndexSets>& sets, std::int64_t rows, std::int64_t width, std::int64_t* out,
                int threads) {
  merge_rows(sets, rows, width, out, threads, [](std::vector<Cursor>& cursors, std::int64_t* result) {
    for (;;) {
      std::int64_t smallest = kNone;
      for (const Cursor& cursor : cursors) smallest = std::min(smallest, cursor.entry());
      if (smallest == kNone) return result;
      *result++ = smallest;
      for (Cursor& cursor : cursors) cursor.at += cursor.entry() == smallest;
    }
  });
}

}  // namespace salcr
