// What scope.cuh uses of CUDA, on threads of the host: a thread for each of the GPU's, real barriers, so that
// ThreadSanitizer sees what two threads touch without a barrier between them.
#pragma once
#include <pthread.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#define __CUDACC__
#define __device__

struct Index {
  unsigned x;
};

// std::barrier spins before it sleeps, and here many more threads than processors wait at each of them.
class Barrier {
 public:
  explicit Barrier(unsigned threads) { pthread_barrier_init(&barrier_, nullptr, threads); }
  ~Barrier() { pthread_barrier_destroy(&barrier_); }
  Barrier(const Barrier&) = delete;
  void arrive_and_wait() { pthread_barrier_wait(&barrier_); }

 private:
  pthread_barrier_t barrier_;
};

struct Warp {
  Barrier barrier{32};
  int slots[32];
};

inline Index blockDim, gridDim;
inline thread_local Index threadIdx, blockIdx;
inline thread_local Warp* own_warp;
inline thread_local Barrier* own_block;

inline void __syncthreads() { own_block->arrive_and_wait(); }
inline void __threadfence() { std::this_thread::yield(); }  // the atomics below order everything

// Every lane's x, by read(slots) between two barriers of the warp.
template <typename Read>
auto exchange(int x, Read read) {
  own_warp->slots[threadIdx.x & 31] = x;
  own_warp->barrier.arrive_and_wait();
  const auto result = read(own_warp->slots);
  own_warp->barrier.arrive_and_wait();
  return result;
}

inline unsigned __reduce_min_sync(unsigned, unsigned x) {
  return exchange(static_cast<int>(x), [](const int* slots) {
    return *std::min_element(reinterpret_cast<const unsigned*>(slots), reinterpret_cast<const unsigned*>(slots) + 32);
  });
}

inline unsigned __reduce_add_sync(unsigned, unsigned x) {
  return exchange(static_cast<int>(x), [](const int* slots) {
    return std::accumulate(slots, slots + 32, 0u, [](unsigned sum, int y) { return sum + static_cast<unsigned>(y); });
  });
}

inline unsigned __ballot_sync(unsigned, bool x) {
  return exchange(x, [](const int* slots) {
    unsigned bits = 0;
    for (int i = 0; i < 32; ++i) bits |= static_cast<unsigned>(slots[i]) << i;
    return bits;
  });
}

inline unsigned atomicAdd(unsigned* p, unsigned x) { return __atomic_fetch_add(p, x, __ATOMIC_SEQ_CST); }

inline void atomicMax(unsigned long long* p, unsigned long long x) {
  unsigned long long old = __atomic_load_n(p, __ATOMIC_SEQ_CST);
  while (old < x && !__atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
  }
}

template <typename To, typename From>
To same_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline double __longlong_as_double(long long x) { return same_bits<double>(x); }
inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }
inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
inline float __double2float_rz(double x) {
  const float near = static_cast<float>(x);
  return near > x ? std::nextafter(near, 0.0f) : near;
}
