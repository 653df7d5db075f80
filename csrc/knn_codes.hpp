#pragma once
#include <cstdint>

#include "knn_rows.hpp"

namespace salcr {

using HalfRows = StoredRows<std::uint16_t>;

// A row in 8 bits (docs/numerics.md, "Neighbours in bytes"): its entries over `unit` and plus 128, to a multiple of four bytes;
// then, as float, what one counts of a row of unit length, and the norm of what rounding took from that.
constexpr std::int64_t code_length(std::int64_t width) { return (width + 3) / 4 * 4; }
constexpr std::int64_t code_bytes(std::int64_t width) { return code_length(width) + 2 * sizeof(float); }
constexpr std::int64_t kWidestCode = 65536;  // a sum of products of bytes has to fit 32 bits

// Writes codes [rows.count, code_bytes(rows.width)]. Returns the first row with NaN or Inf, or -1.
std::int64_t round_rows(const HalfRows& rows, std::uint8_t* codes, int threads);

// Bytes are multiplied by AVX-512 VNNI, or as any processor can.
enum class Products { kFastest, kVnni, kAny };

// What nearest_rows returns, given the codes of its rows: these are read, and of the rows those alone that may be among the
// nearest. False: the codes are not those of the rows, and scores and indices say nothing.
bool nearest_coded(const float* queries, std::int64_t count, const HalfRows& rows, const std::uint8_t* codes,
                   std::int64_t k, float* scores, std::int64_t* indices, Products products, int threads);

}  // namespace salcr
