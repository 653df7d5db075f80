// Instructions that read and write registers of one lane.
#include "machine.hpp"

namespace {
template <class T>
T larger(T a, T b, bool shows_nan) {
  if (a != a || b != b) return shows_nan ? T(NAN) : a != a ? b : a;
  return a == b ? (std::signbit(a) ? b : a) : std::max(a, b);
}

template <class T>
bool compares(Comparison comparison, T a, T b) {
  const bool unordered = a != a || b != b;
  switch (comparison) {
    case Comparison::eq: return !unordered && a == b;
    case Comparison::ne: return !unordered && a != b;
    case Comparison::lt: return a < b;
    case Comparison::le: return a <= b;
    case Comparison::gt: return a > b;
    case Comparison::ge: return a >= b;
    case Comparison::equ: return unordered || a == b;
    case Comparison::neu: return unordered || a != b;
    case Comparison::ltu: return unordered || a < b;
    case Comparison::leu: return unordered || a <= b;
    case Comparison::gtu: return unordered || a > b;
    case Comparison::geu: return unordered || a >= b;
    case Comparison::num: return !unordered;
    case Comparison::nan: return unordered;
  }
  fault("an unknown comparison");
}

template <class T>
T combined(Operation operation, T a, T b, T c) {
  if constexpr (std::is_integral_v<T>) {
    const Bits x = Bits(a), y = Bits(b);
    switch (operation) {
      case Operation::add: return T(x + y);
      case Operation::sub: return T(x - y);
      case Operation::mul: return T(x * y);
      case Operation::mad: return T(x * y + Bits(c));
      case Operation::min: return std::min(a, b);
      case Operation::max: return std::max(a, b);
      case Operation::neg: return T(0 - x);
      case Operation::abs: return a < 0 ? T(0 - x) : a;
      case Operation::div: return b == 0 ? T(~T{0}) : std::is_signed_v<T> && b == T(-1) ? T(0 - x) : T(a / b);
      case Operation::rem: return b == 0 ? a : std::is_signed_v<T> && b == T(-1) ? T{0} : T(a % b);
      default: break;
    }
  } else {
    switch (operation) {
      case Operation::add: return a + b;
      case Operation::sub: return a - b;
      case Operation::mul: return a * b;
      case Operation::fma: return std::fma(a, b, c);
      case Operation::div: return a / b;
      case Operation::sqrt: return std::sqrt(a);
      case Operation::rsqrt: return T(1 / std::sqrt(double(a)));
      case Operation::rcp: return 1 / a;
      case Operation::ex2: return T(std::exp2(double(a)));
      default: break;
    }
  }
  fault("operation %d of this type", int(operation));
}

Bits of_floats(const Instruction& in, Bits a, Bits b, Bits c) {
  const float x = get<float>(a), y = get<float>(b), z = get<float>(c);
  const bool shows_nan = in.flags & NaN;
  float value;
  switch (in.operation) {
    case Operation::max: value = larger(x, y, shows_nan); break;
    case Operation::min: value = -larger(-x, -y, shows_nan); break;
    default: value = combined(in.operation, x, y, z);
  }
  return put(in.flags & ftz ? flushed(value) : value);
}

// Of halves: in float64, whose own rounding is nothing beside theirs, and cut to an odd float32 on the way.
Bits of_halves(const Instruction& in, Bits a, Bits b, Bits c) {
  const double x = from_half(a, in.type), y = from_half(b, in.type), z = from_half(c, in.type);
  switch (in.operation) {
    case Operation::add: return to_half(to_odd(x + y), in.type);
    case Operation::sub: return to_half(to_odd(x - y), in.type);
    case Operation::mul: return to_half(to_odd(x * y), in.type);
    case Operation::fma: return to_half(to_odd(x * y + z), in.type);
    case Operation::max: return to_half(larger(float(x), float(y), in.flags & NaN), in.type);
    case Operation::min: return to_half(-larger(-float(x), -float(y), in.flags & NaN), in.type);
    default: fault("operation %d of halves", int(in.operation));
  }
}

Bits extracted(Bits value, int begin, int length, Type type) {
  const int width = 8 * size_of(type);
  Bits bits = begin < width ? value >> begin : 0;
  if (begin + length > width) fault("bits %d to %d of %d", begin, begin + length, width);
  if (length < 64) bits &= (Bits{1} << length) - 1;
  const bool negative = (type == Type::s32 || type == Type::s64) && length > 0 && bits >> (length - 1) & 1;
  return (negative && length < 64 ? bits | ~Bits{0} << length : bits) & ones(size_of(type));
}

Bits permuted(Bits low, Bits high, Bits selection) {
  const Bits all = (low & ones(4)) | high << 32;
  Bits bits = 0;
  for (int i = 0; i < 4; ++i) {
    const Bits which = selection >> 4 * i & 15, byte = all >> 8 * (which & 7) & 255;
    bits |= (which & 8 ? (byte & 128 ? Bits{255} : Bits{0}) : byte) << 8 * i;
  }
  return bits;
}

Bits reversed(Bits value) {
  Bits bits = 0;
  for (int i = 0; i < 32; ++i) bits |= (value >> i & 1) << (31 - i);
  return bits;
}

Bits calculated(const Instruction& in, Bits a, Bits b, Bits c) {
  const Type type = in.type;
  const int bytes = size_of(type);
  if (type == Type::f32 && in.flags & ftz) {
    a = put(flushed(get<float>(a))), b = put(flushed(get<float>(b))), c = put(flushed(get<float>(c)));
  }
  switch (in.operation) {
    case Operation::mov: return a & ones(bytes);
    case Operation::not_: return ~a & (type == Type::pred ? 1 : ones(bytes));
    case Operation::and_: return a & b;
    case Operation::or_: return a | b;
    case Operation::xor_: return a ^ b;
    case Operation::selp: return (c & 1 ? a : b) & ones(bytes);
    case Operation::popc: return Bits(__builtin_popcountll(a));
    case Operation::brev: return reversed(a);
    case Operation::leading_zeros: return (a & ones(4)) == 0 ? ones(4) : Bits(__builtin_clz(std::uint32_t(a)));
    case Operation::prmt: return permuted(a, b, c);
    case Operation::bfe: return extracted(a, int(b & 255), int(c & 255), type);
    case Operation::copysign: return (b & ones(bytes) >> 1) | (a & ~(ones(bytes) >> 1));
    case Operation::shl: return int(b & ones(4)) >= 8 * bytes || (b & ones(4)) > 64 ? 0 : (a << b) & ones(bytes);
    case Operation::shr:
      return put(std::int64_t(integer(a, type) >> std::min<Bits>(b & ones(4), 8 * bytes))) & ones(bytes);
    case Operation::mul_wide: return Bits(integer(a, type) * integer(b, type)) & ones(2 * bytes);
    case Operation::mad_wide: return Bits(integer(a, type) * integer(b, type) + __int128(c)) & ones(2 * bytes);
    case Operation::setp:
      if (is_real(type)) return compares(Comparison(in.choice), real(a, type), real(b, type));
      return compares(Comparison(in.choice), integer(a, type), integer(b, type));
    default: break;
  }
  if (is_real(type) && (in.operation == Operation::neg || in.operation == Operation::abs)) {
    const Bits sign = Bits{1} << (8 * bytes - 1);
    return in.operation == Operation::neg ? (a ^ sign) & ones(bytes) : a & (sign - 1);
  }
  if (type == Type::f32) return of_floats(in, a, b, c);
  if (type == Type::f64 && in.operation == Operation::max) {
    return put(larger(get<double>(a), get<double>(b), in.flags & NaN));
  }
  if (type == Type::f64) return put(combined(in.operation, get<double>(a), get<double>(b), get<double>(c)));
  if (is_real(type)) return of_halves(in, a, b, c);
  return with_integer(type, [&](auto kind) {
    using T = decltype(kind);
    return put(combined(in.operation, get<T>(a), get<T>(b), get<T>(c)));
  });
}

Bits converted(const Instruction& in, Bits bits) {
  const Type to = in.type, from = in.source;
  if (!is_real(from)) {
    const __int128 value = integer(bits, from);
    if (!is_real(to)) return Bits(value) & ones(size_of(to));
    return to == Type::f64 ? put(double(value)) : to == Type::f32 ? put(float(value)) : to_half(float(value), to);
  }
  double value = real(bits, from);
  if (in.flags & ftz && from == Type::f32) value = flushed(float(value));
  if (in.flags & rmi) value = std::floor(value);
  if (in.flags & rpi) value = std::ceil(value);
  if (in.flags & rzi) value = std::trunc(value);
  if (to == Type::tf32)
    return put(std::isfinite(value) ? cut_to_tf32(get<float>(put(float(value)) + 0x1000)) : float(value));
  if (to == Type::f64) return put(value);
  if (to == Type::f32 && in.flags & rz) return put(toward_zero(value));
  if (to == Type::f32) return put(in.flags & ftz ? flushed(float(value)) : float(value));
  if (is_real(to)) return to_half(from == Type::f64 ? to_odd(value) : float(value), to);
  return with_integer(to, [=](auto kind) {
    using T = decltype(kind);
    using Limits = std::numeric_limits<T>;
    if (value != value) return put(T{0});
    if (value <= double(Limits::min())) return put(Limits::min());
    return put(value >= double(Limits::max()) ? Limits::max() : T(value));
  });
}
}  // namespace

void Machine::calculate(Warp& warp, const Instruction& in, std::uint32_t lanes) {
  if (in.operation == Operation::pack) {
    const int parts = in.count - 1, bytes = size_of(in.type) / parts;
    Bits* out = target(warp, in, 0);
    return for_lanes(lanes, [&](int l) {
      Bits bits = 0;
      for (int i = 0; i < parts; ++i) bits |= (source(warp, in, 1 + i)[l] & ones(bytes)) << 8 * bytes * i;
      out[l] = bits;
    });
  }
  if (in.operation == Operation::unpack) {
    const int parts = in.count - 1, bytes = size_of(in.type) / parts;
    return for_lanes(lanes, [&](int l) {
      const Bits bits = source(warp, in, parts)[l];
      for (int i = 0; i < parts; ++i) target(warp, in, i)[l] = bits >> 8 * bytes * i & ones(bytes);
    });
  }
  static const Bits none[kLanes] = {};
  const Bits* a = source(warp, in, 1);
  const Bits* b = in.count > 2 ? source(warp, in, 2) : none;
  const Bits* c = in.count > 3 ? source(warp, in, 3) : none;
  Bits* out = target(warp, in, 0);
  const int width = 8 * size_of(in.type);
  for_lanes(lanes, [&](int l) {
    const Bits low = calculated(in, a[l], b[l], c[l]);  // into what may be an operand
    out[l] = in.flags & pair ? low | calculated(in, a[l] >> width, b[l] >> width, c[l] >> width) << width : low;
  });
}

void Machine::convert(Warp& warp, const Instruction& in, std::uint32_t lanes) {
  Bits* out = target(warp, in, 0);
  const Bits* a = source(warp, in, 1);
  if (in.operation == Operation::cvt) return for_lanes(lanes, [&](int l) { out[l] = converted(in, a[l]); });
  const Bits* b = source(warp, in, 2);
  for_lanes(lanes, [&](int l) { out[l] = converted(in, a[l]) << 16 | converted(in, b[l]); });
}
