#pragma once
#include <cstdint>
#include <vector>

namespace salcr {

template <typename Real>
struct Entry {
  std::int32_t column;
  Real value;
};

template <typename Real>
struct Span {
  Entry<Real>* first;
  std::int64_t count;
  Entry<Real>* begin() const { return first; }
  Entry<Real>* end() const { return first + count; }
};

// A sparse matrix whose rows are made in parallel, a chunk of neighbouring rows at a time.
template <typename Real>
class SparseRows {
 public:
  static constexpr std::int64_t kChunk = 64;

  explicit SparseRows(std::int64_t rows) : chunks_((rows + kChunk - 1) / kChunk), end_(rows) {}

  std::int64_t rows() const { return static_cast<std::int64_t>(end_.size()); }

  Span<Real> operator[](std::int64_t row) {
    auto& chunk = chunks_[row / kChunk];
    const std::int64_t begin = row % kChunk == 0 ? 0 : end_[row - 1];
    return {chunk.data() + begin, end_[row] - begin};
  }

  // The entries of the chunk that `row` is in: append those of `row` there, then call close. Rows of a chunk come in order.
  std::vector<Entry<Real>>& entries(std::int64_t row) { return chunks_[row / kChunk]; }
  void close(std::int64_t row) {
    end_[row] = static_cast<std::int64_t>(entries(row).size());
    if (row % kChunk == kChunk - 1 || row + 1 == rows()) entries(row).shrink_to_fit();
  }

 private:
  std::vector<std::vector<Entry<Real>>> chunks_;
  std::vector<std::int64_t> end_;  // of each row, within its chunk
};

// A sparse matrix that is complete and in two arrays, somebody else's: row i is entries [pointers[i], pointers[i + 1]).
template <typename Real>
class CsrRows {
 public:
  CsrRows(const std::int64_t* pointers, Entry<Real>* entries, std::int64_t rows)
      : pointers_(pointers), entries_(entries), rows_(rows) {}

  std::int64_t rows() const { return rows_; }
  Span<Real> operator[](std::int64_t row) const {
    return {entries_ + pointers_[row], pointers_[row + 1] - pointers_[row]};
  }

 private:
  const std::int64_t* pointers_;
  Entry<Real>* entries_;
  std::int64_t rows_;
};

}  // namespace salcr
