// A search that reads each row in 8 bits, and few rows as they are. Products of codes bound every cosine from both sides; what
// cannot be among the nearest, as k others have larger lower bounds, is left out as it is met or when all has been read. The
// rest is scored in float32, as nearest_rows does: the result is its result, to the bit, whatever multiplies and however many
// threads there are.

#include "knn_codes.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "half.hpp"
#include "knn.hpp"
#include "knn_code_products.hpp"
#include "mapped.hpp"
#include "parallel.hpp"
#include "rows.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kMostStrips = 16;       // looked at together where several panels of queries share them
constexpr std::int64_t kMapped = 1 << 24;      // bytes of codes that are mapped at a time by all threads: a call stops them all
constexpr std::int64_t kWindows = 8;           // that a thread takes at a time, at most
constexpr std::int64_t kRounded = 4096;        // rows that a thread rounds at a time
constexpr std::int64_t kHeld = 4096;           // rows that wait for a query's score in each thread, at most
constexpr std::int64_t kScored = 16;           // rows that are scored before their pages are let go of

struct Held {
  float lower, upper;  // of the cosine
  std::int32_t row, query;
};

bool by_row(const Held& a, const Held& b) { return a.row != b.row ? a.row < b.row : a.query < b.query; }

// Scores rows in float32.
class Scorer {
 public:
  Scorer(const float* queries, std::int64_t count, const HalfRows& rows, bool mapped, std::int64_t k)
      : queries_(queries), rows_(rows), mapped_(mapped), best_(count, k), row_(rows.width) {}

  // False: a score is not within its bounds, so that these are of other rows.
  bool score(const Held* begin, const Held* end) {
    bool within = true;
    std::int32_t at = -1;
    float inverse = 0;
    for (const Held* held = begin; held < end; ++held) {
      if (held->row != at) {
        at = held->row;
        const std::uint16_t* const stored = rows_.data + at * rows_.stride;
        for (std::int64_t d = 0; d < rows_.width; ++d) row_[d] = to_float(stored[d]);
        inverse = static_cast<float>(inverse_norm(quick_dot(row_.data(), row_.data(), rows_.width)));
      }
      const float cosine = quick_dot(queries_ + held->query * rows_.width, row_.data(), rows_.width) * inverse;
      within &= held->lower <= cosine && cosine <= held->upper;
      if (cosine >= best_.threshold(held->query)) best_.push(held->query, cosine, at);
    }
    if (mapped_ && begin < end) {
      const std::uint16_t* const first = rows_.data + begin->row * rows_.stride;
      advise(Pages::kUnmap, first, 2 * ((end[-1].row - begin->row) * rows_.stride + rows_.width));
    }
    return within;
  }

  TopK<float>& best() { return best_; }

 private:
  const float* queries_;
  HalfRows rows_;
  bool mapped_;
  TopK<float> best_;
  std::vector<float> row_;
};

// Reads codes, and holds what may be among the nearest.
class Reader {
 public:
  Reader(const CodedQueries& queries, std::int64_t count, const std::uint8_t* codes, std::int64_t width, std::int64_t k,
         Scorer scorer)
      : queries_(queries),
        codes_(codes),
        length_(code_length(width)),
        stride_(code_bytes(width)),
        lower_(count, k),
        thresholds_(queries.panels() * kPanel, std::numeric_limits<float>::infinity()),
        held_(count),
        memory_(kMostStrips * queries.scratch()),
        scorer_(std::move(scorer)) {
    std::fill_n(thresholds_.begin(), count, -std::numeric_limits<float>::infinity());
  }

  // False: the codes are of other rows.
  bool read(std::int64_t begin, std::int64_t end) {
    const std::int64_t strips = queries_.panels() == 1 ? 1 : kMostStrips, scratch = queries_.scratch();
    bool within = true;
    for (std::int64_t first = begin; first < end; first += strips * kStrip) {
      const std::int64_t last = std::min(end, first + strips * kStrip);
      for (std::int64_t panel = 0; panel < queries_.panels(); ++panel)
        for (std::int64_t at = first; at < last; at += kStrip) {
          const std::uint8_t* const ahead = strips == 1 && at + 2 * kStrip <= end ? row(at + kStrip) : nullptr;
          std::int32_t products[kStrip * kPanel];
          queries_.multiply(whole_strip(at, end), panel, ahead, panel == 0,
                            memory_.data() + (at - first) / kStrip * scratch, products);
          for (std::int64_t r = at; r < std::min(end, at + kStrip); ++r)
            within &= look(r, panel, products + (r - at) * kPanel);
        }
    }
    return within;
  }

  TopK<float>& lower() { return lower_; }
  Scorer& scorer() { return scorer_; }

  // Appends what is held and has reached the query's threshold.
  void collect(const TopK<float>& lower, const TopK<float>& best, std::vector<Held>& all) const {
    for (const auto& some : held_)
      for (const Held& held : some)
        if (!(held.upper < std::max(lower.threshold(held.query), best.threshold(held.query)))) all.push_back(held);
  }

 private:
  const std::uint8_t* row(std::int64_t at) const { return codes_ + at * stride_; }

  // kStrip rows from row `at` on; of the last some are missing.
  const std::uint8_t* whole_strip(std::int64_t at, std::int64_t end) {
    if (at + kStrip <= end) return row(at);
    last_.assign(kStrip * stride_, 0);
    std::memcpy(last_.data(), row(at), (end - at) * stride_);
    return last_.data();
  }

  // Holds a row for the panel's queries that it may be near to. False: its code, or what was scored to make room, is wrong.
  bool look(std::int64_t at, std::int64_t panel, const std::int32_t* products) {
    const CodedQueries::Panel& its = queries_.panel(panel);
    float unit, lost, upper[kPanel], lower[kPanel];
    std::memcpy(&unit, row(at) + length_, sizeof unit);
    std::memcpy(&lost, row(at) + length_ + sizeof unit, sizeof lost);
    if (!is_finite(unit) || !(lost >= 0 && is_finite(lost))) return false;
    const float* const thresholds = thresholds_.data() + panel * kPanel;
    int any = 0;
#pragma omp simd reduction(| : any)
    for (std::int64_t q = 0; q < kPanel; ++q) {
      const float product = static_cast<float>(products[q]) * unit * its.unit[q], off = lost * its.grows[q] + its.error[q];
      upper[q] = product + off;
      lower[q] = product - off;
      any |= !(upper[q] < thresholds[q]);
    }
    bool within = true;
    if (!any) return within;
    const std::int64_t first = panel * kPanel, most = std::min(kPanel, lower_.rows() - first);
    for (std::int64_t q = 0; q < most; ++q)
      if (!(upper[q] < thresholds[q])) within &= hold({lower[q], upper[q], static_cast<int>(at), static_cast<int>(first + q)});
    return within;
  }

  bool hold(const Held& held) {
    const std::int64_t query = held.query;
    if (held.lower > lower_.threshold(query)) lower_.push(query, held.lower, held.row);
    raise(query, lower_.threshold(query));
    std::vector<Held>& some = held_[query];
    some.push_back(held);
    return static_cast<std::int64_t>(some.size()) < kHeld || make_room(query);
  }

  void raise(std::int64_t query, float least) { thresholds_[query] = std::max(thresholds_[query], least); }

  // Drops what has fallen below the query's threshold since; where that is too little, scores the rest.
  bool make_room(std::int64_t query) {
    std::vector<Held>& some = held_[query];
    lower_.cut(query);
    raise(query, lower_.threshold(query));
    const auto below = [&](const Held& held) { return held.upper < thresholds_[query]; };
    some.erase(std::remove_if(some.begin(), some.end(), below), some.end());
    if (static_cast<std::int64_t>(some.size()) < kHeld / 2) return true;
    bool within = true;
    for (std::size_t at = 0; at < some.size(); at += kScored)
      within &= scorer_.score(some.data() + at, some.data() + std::min(some.size(), at + kScored));
    some.clear();
    scorer_.best().cut(query);
    raise(query, scorer_.best().threshold(query));
    return within;
  }

  const CodedQueries& queries_;
  const std::uint8_t* codes_;
  std::int64_t length_, stride_;
  TopK<float> lower_;
  std::vector<float> thresholds_;  // a row whose upper bound is smaller is not among the nearest
  std::vector<std::vector<Held>> held_;
  std::vector<std::int16_t> memory_;
  std::vector<std::uint8_t> last_;
  Scorer scorer_;
};

// The rows' lists together in the first of them.
template <typename List>
TopK<float>& joined(std::vector<std::unique_ptr<Reader>>& readers, std::int64_t count, List list) {
  TopK<float>* all = nullptr;
  for (auto& reader : readers) {
    if (!reader) continue;
    if (all == nullptr)
      all = &list(*reader);
    else
      all->join(list(*reader));
  }
  for (std::int64_t q = 0; q < count; ++q) all->cut(q);
  return *all;
}

}  // namespace

std::int64_t round_rows(const HalfRows& rows, std::uint8_t* codes, int threads) {
  const std::int64_t length = code_length(rows.width), stride = code_bytes(rows.width);
  std::atomic<std::int64_t> bad{rows.count};
  parallel_chunks(rows.count, kRounded, threads, [&](std::int64_t begin, std::int64_t end, int) {
    std::vector<float> row(rows.width);
    std::vector<std::int8_t> rounded(length);
    for (std::int64_t r = begin; r < end; ++r) {
      const std::uint16_t* const stored = rows.data + r * rows.stride;
      int infinite = 0;
      for (std::int64_t d = 0; d < rows.width; ++d) {
        infinite |= !is_finite(stored[d]);
        row[d] = to_float(stored[d]);
      }
      if (infinite) {
        std::int64_t known = bad;
        while (r < known && !bad.compare_exchange_weak(known, r)) {
        }
        return;
      }
      const RoundedRow found = round_row(row.data(), rows.width, rounded.data());
      const float inverse = static_cast<float>(inverse_norm(found.norm * found.norm));
      const float unit = found.unit * inverse, lost = found.lost * inverse + kSlack;
      std::uint8_t* const out = codes + r * stride;
      for (std::int64_t d = 0; d < length; ++d) out[d] = static_cast<std::uint8_t>(rounded[d] + 128);
      std::memcpy(out + length, &unit, sizeof unit);
      std::memcpy(out + length + sizeof unit, &lost, sizeof lost);
    }
  });
  return bad < rows.count ? bad.load() : -1;
}

bool nearest_coded(const float* queries, std::int64_t count, const HalfRows& rows, const std::uint8_t* codes,
                   std::int64_t k, float* scores, std::int64_t* indices, Products products, int threads) {
  const bool vnni = products != Products::kAny && can_screen_in_bytes(rows.width);
  const CodedQueries coded(queries, count, rows.width, vnni, threads);
  const std::int64_t share = (rows.count / (4 * threads) + kStrip - 1) / kStrip * kStrip, stride = code_bytes(rows.width);
  const std::int64_t window = std::max<std::int64_t>(1, kMapped / threads / (stride * kStrip)) * kStrip;
  const std::int64_t chunk = std::clamp(share, kStrip, kWindows * window);
  const bool mapped = is_shared_mapping(rows.data, 2 * ((rows.count - 1) * rows.stride + rows.width));
  const bool codes_mapped = is_shared_mapping(codes, rows.count * stride);
  std::vector<std::unique_ptr<Reader>> readers(threads);
  std::atomic<bool> within{true};
  parallel_chunks(rows.count, chunk, threads, [&](std::int64_t begin, std::int64_t end, int thread) {
    auto& reader = readers[thread];
    if (!reader)
      reader = std::make_unique<Reader>(coded, count, codes, rows.width, k, Scorer(queries, count, rows, mapped, k));
    for (std::int64_t at = begin; at < end; at += window) {
      const std::int64_t stop = std::min(end, at + window), before = std::max(begin, at - window);
      if (codes_mapped) advise(Pages::kMap, codes + at * stride, (stop - at) * stride);
      if (!reader->read(at, stop)) within = false;
      // The system maps pages around those that are asked for: some of the window before are back.
      if (codes_mapped) advise(Pages::kUnmap, codes + before * stride, (stop - before) * stride);
    }
  });
  const TopK<float>& lower = joined(readers, count, [](Reader& reader) -> auto& { return reader.lower(); });
  const auto best = [](Reader& reader) -> auto& { return reader.scorer().best(); };
  TopK<float>& scored = joined(readers, count, best);
  std::vector<Held> held;
  for (const auto& reader : readers)
    if (reader) reader->collect(lower, scored, held);
  std::sort(held.begin(), held.end(), by_row);
  const std::int64_t waiting = static_cast<std::int64_t>(held.size());
  std::vector<std::unique_ptr<Scorer>> scorers(threads);
  parallel_chunks(waiting, kScored, threads, [&](std::int64_t begin, std::int64_t end, int thread) {
    if (!scorers[thread]) scorers[thread] = std::make_unique<Scorer>(queries, count, rows, mapped, k);
    if (!scorers[thread]->score(held.data() + begin, held.data() + end)) within = false;
  });
  for (auto& scorer : scorers)
    if (scorer) scored.join(scorer->best());
  if (within) scored.write(scores, indices, k, threads);
  return within;
}

}  // namespace salcr
