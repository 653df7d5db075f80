// Tensor cores: mma.sync of a warp, and a warp's 16 rows of a wgmma of its warpgroup, whose operands lie in shared
// memory.
#include "machine.hpp"

namespace {
// An operand of rows (of the result's rows or columns) times K.
struct Matrix {
  int K;
  std::vector<double> values;
  Matrix(int rows, int K) : K(K), values(std::size_t(rows) * K) {}
  double& at(int row, int k) { return values[std::size_t(row) * K + k]; }
};

double element(const std::uint8_t* memory, Type type) {
  Bits bits = 0;
  std::memcpy(&bits, memory, type == Type::tf32 ? 4 : 2);
  return type == Type::tf32 ? cut_to_tf32(get<float>(bits)) : from_half(bits, type);
}

// Register i of an operand: lane 4 r + c holds column c, or of halves 2 c and 2 c + 1, of row r. Of the first operand
// the second and fourth register are 8 rows below; the last half of either's registers are the last half of the
// columns.
void take(Matrix& matrix, const Bits* values, int i, int rows_of_registers, Type type) {
  const int row = 8 * (i % rows_of_registers), half = i / rows_of_registers;
  for (int l = 0; l < kLanes; ++l) {
    if (type == Type::tf32) {
      matrix.at(row + l / 4, 4 * half + l % 4) = cut_to_tf32(get<float>(values[l]));
    } else {
      for (int h = 0; h < 2; ++h)
        matrix.at(row + l / 4, 8 * half + 2 * (l % 4) + h) = from_half(values[l] >> 16 * h, type);
    }
  }
}

float sum(Matrix& a, Matrix& b, int row, int column, float before) {
  double total = before;
  for (int k = 0; k < a.K; ++k) total += a.at(row, k) * b.at(column, k);
  return toward_zero(total);
}

// The address of an element by a matrix descriptor of wgmma: `row` counts along the result, `k` along the sum. Of K the
// operand lies in rows of 16, 32, 64 or 128 bytes, eight of which are a group, and their chunks of 16 bytes are
// swizzled.
Bits address_of(Bits descriptor, int row, int k, int bytes, bool transposed) {
  const Bits start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4;
  const Bits stride = (descriptor >> 32 & 0x3fff) << 4;
  const int layout = int(descriptor >> 62);  // 1, 2, 3: swizzles of 128, 64 and 32 bytes
  const int chunks = layout == 0 ? 1 : 16 >> layout, per_chunk = 16 / bytes;
  const int along = transposed ? row : k, across = transposed ? k : row;
  const int chunk = along / per_chunk;
  Bits address = start + Bits(along % per_chunk * bytes) + Bits(across % 8 * 16 * chunks);
  if (transposed) {
    address += layout == 0 ? chunk * stride + across / 8 * leading
                           : Bits(chunk % chunks * 16) + chunk / chunks * leading + across / 8 * stride;
  } else {
    address += across / 8 * stride + (layout == 0 ? chunk * leading : Bits(chunk * 16));
  }
  return address ^ ((address >> 7 & Bits(chunks - 1)) << 4);
}
}  // namespace

void Machine::multiply(Warp& warp, const Instruction& in) {
  if (in.operation == Operation::wgmma) {
    const int results = in.choice / 2, of_a = in.flags & registers ? 4 : 1;
    const Bits a = source(warp, in, results)[0], b = source(warp, in, results + of_a)[0];
    const bool adds = source(warp, in, results + of_a + 1)[0] & 1;
    auto work = [this, &warp, &in, a, b, adds] { multiply_shared(warp, in, a, b, adds); };
    const bool in_turn = warp.products.empty() && warp.groups_of_products.empty();
    return in_turn && by_chance() ? work() : warp.products.push_back(work);
  }
  const int of_a = in.choice, of_b = of_a / 2, K = (in.source == Type::tf32 ? 2 : 4) * of_a;
  Matrix a(16, K), b(8, K);
  for (int i = 0; i < of_a; ++i) take(a, source(warp, in, 4 + i), i, 2, in.source);
  for (int i = 0; i < of_b; ++i) take(b, source(warp, in, 4 + of_a + i), i, 1, in.source);
  Bits results[4][kLanes];
  for (int i = 0; i < 4; ++i) {
    const Bits* before = source(warp, in, 4 + of_a + of_b + i);
    for (int l = 0; l < kLanes; ++l) {
      results[i][l] = put(sum(a, b, l / 4 + 8 * (i / 2), 2 * (l % 4) + i % 2, get<float>(before[l])));
    }
  }
  for (int i = 0; i < 4; ++i) std::memcpy(target(warp, in, i), results[i], sizeof results[i]);
}

void Machine::multiply_shared(Warp& warp, const Instruction& in, Bits of_a, Bits of_b, bool adds) {
  const int columns = in.choice, bytes = in.source == Type::tf32 ? 4 : 2, K = 32 / bytes,
            first_row = 16 * (warp.id % 4);
  Matrix a(16, K), b(columns, K);
  auto fill = [&](Matrix& matrix, int rows, int begin, Bits descriptor, bool transposed) {
    for (int row = 0; row < rows; ++row) {
      for (int k = 0; k < K; ++k) {
        const Bits address = address_of(descriptor, begin + row, k, bytes, transposed);
        matrix.at(row, k) = element(read_shared(warp, address, bytes), in.source);
      }
    }
  };
  fill(b, columns, 0, of_b, in.flags & trans_b);
  if (in.flags & registers) {
    for (int i = 0; i < 4; ++i) take(a, source(warp, in, columns / 2 + i), i, 2, in.source);
  } else {
    fill(a, 16, first_row, of_a, in.flags & trans);
  }
  for (int i = 0; i < columns / 2; ++i) {
    Bits* result = target(warp, in, i);
    for (int l = 0; l < kLanes; ++l) {
      const float before = adds ? get<float>(result[l]) : 0.0f;
      result[l] = put(sum(a, b, l / 4 + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * (l % 4) + i % 2, before));
    }
  }
}
