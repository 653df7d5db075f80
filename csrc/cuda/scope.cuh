// A team of threads that solves one problem: a block, or all blocks of a cooperative launch.
//
// A team is cut into groups, the warps of the block or the blocks of the grid; what a group finds out is written once and
// read by all after a barrier. emulation.hpp is the same on one thread of the host. No header of CUDA's is needed, so that
// NVRTC compiles it; the grid's barrier is a counter in global memory and takes no library either.
#pragma once

namespace salcr {

__device__ inline double infinity() { return __longlong_as_double(0x7ff0000000000000ll); }
__device__ inline float rounded_down(double x) { return __double2float_rz(x); }  // at most the largest float
__device__ inline unsigned bits_of(float x) { return __float_as_uint(x); }
__device__ inline float float_of(unsigned bits) { return __uint_as_float(bits); }

constexpr unsigned kAllLanes = 0xffffffffu;

template <bool kGrid>
class Scope {
 public:
  // `scratch`: shared memory of kScratch bytes. `arrived`: with kGrid, a counter in global memory that starts at 0.
  static constexpr int kScratch = 1032;
  __device__ Scope(void* scratch, unsigned* arrived) : scratch_(scratch), arrived_(arrived) {}

  __device__ int threads() const { return kGrid ? gridDim.x * blockDim.x : blockDim.x; }
  __device__ int groups() const { return kGrid ? gridDim.x : blockDim.x / 32; }
  __device__ int group_of(int thread) const { return thread / (kGrid ? blockDim.x : 32); }
  __device__ bool first_block() const { return !kGrid || blockIdx.x == 0; }

  // All threads of the team have come this far, and see what the others wrote before.
  __device__ void barrier() {
    __syncthreads();
    if (!kGrid) return;
    if (threadIdx.x == 0) {
      target_ += gridDim.x;
      __threadfence();
      atomicAdd(arrived_, 1u);
      while (static_cast<int>(*static_cast<volatile unsigned*>(arrived_) - target_) < 0) {  // right past 2^32 too
      }
      __threadfence();
    }
    __syncthreads();
  }

  __device__ void block_barrier() { __syncthreads(); }

  // body(thread) for every thread of the team.
  template <typename Body>
  __device__ void each_thread(Body body) {
    body(thread());
  }

  // body(i) for i below count, in every block for itself.
  template <typename Body>
  __device__ void each_of_block(int count, Body body) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) body(i);
  }

  // body(row) by a warp for each row below count that wanted(row); neighbouring rows go to different warps.
  template <typename Wanted, typename Body>
  __device__ void each_row(int count, Wanted wanted, Body body) {
    const int warp = thread() / 32, warps = threads() / 32;
    for (int first = 0; first < count; first += 32 * warps) {
      const int row = first + lane() * warps + warp;
      unsigned left = __ballot_sync(kAllLanes, row < count && wanted(row));
      for (; left != 0; left &= left - 1) body(first + (__ffs(left) - 1) * warps + warp);
    }
  }

  // of_groups[g] = the merge of body(thread) over the threads of group g.
  template <typename T, typename Body>
  __device__ void reduce(T* of_groups, Body body) {
    const T own = merged_in_warp(body(thread()));
    if (!kGrid) {
      if (lane() == 0) of_groups[threadIdx.x / 32] = own;
      return;
    }
    static_assert(32 * sizeof(T) + 8 <= kScratch, "scratch");
    T* of_warps = static_cast<T*>(scratch_);
    if (lane() == 0) of_warps[threadIdx.x / 32] = own;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    const T all = merged(of_warps, blockDim.x / 32);
    if (threadIdx.x == 0) of_groups[blockIdx.x] = all;
  }

  // The merge of items, in every thread; called by whole warps.
  template <typename T>
  __device__ T merged(const T* items, int count) const {
    T all = T::none();
    for (int i = lane(); i < count; i += 32) all = T::merge(all, items[i]);
    return merged_in_warp(all);
  }

  // The merge of value(i) for i below count, by one warp.
  template <typename Value>
  __device__ auto best_two(int count, Value value) const {
    auto all = decltype(value(0))::none();
#pragma unroll 8
    for (int i = lane(); i < count; i += 32) all = decltype(all)::merge(all, value(i));
    return merged_in_warp(all);
  }

  // put(i, place) for every i below count that keep(i), places counting up with i; every block does it for itself, and its
  // threads see what was put. Returns how many were kept.
  template <typename Keep, typename Put>
  __device__ int compact(int count, Keep keep, Put put) {
    int* kept_in_all = reinterpret_cast<int*>(static_cast<char*>(scratch_) + kScratch - 8);
    if (threadIdx.x < 32) {
      int place = 0;
      for (int first = 0; first < count; first += 32) {
        const int i = first + lane();
        const bool kept = i < count && keep(i);
        const unsigned ballot = __ballot_sync(kAllLanes, kept);
        if (kept) put(i, place + __popc(ballot & ((1u << lane()) - 1)));
        place += __popc(ballot);
      }
      if (threadIdx.x == 0) *kept_in_all = place;
    }
    __syncthreads();
    return *kept_in_all;
  }

  // target = max(target, value), by one warp.
  __device__ void raise_to(unsigned long long* target, unsigned long long value) const {
    if (lane() == 0) atomicMax(target, value);
  }

 private:
  __device__ int thread() const { return kGrid ? blockIdx.x * blockDim.x + threadIdx.x : threadIdx.x; }
  __device__ int lane() const { return threadIdx.x & 31; }

  void* scratch_;
  unsigned* arrived_;
  unsigned target_ = 0;
};

}  // namespace salcr
