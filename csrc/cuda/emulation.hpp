// The team of scope.cuh on one thread of the host, so that shortest_paths.cuh runs and is tested without a GPU.
//
// A phase between barriers runs for one thread after the other, forwards or backwards: what depends on the order of threads
// within a phase (a race on the GPU) shows as a difference between the two. Barriers are counted; on a GPU they are the
// time of a solution.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#define __device__

namespace salcr {

inline double infinity() { return std::numeric_limits<double>::infinity(); }

inline float rounded_down(double x) {
  const float near = static_cast<float>(std::min(x, static_cast<double>(std::numeric_limits<float>::max())));
  return near > x ? std::nextafter(near, 0.0f) : near;
}

inline unsigned bits_of(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_of(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

class EmulatedScope {
 public:
  EmulatedScope(int groups, int threads_per_group, bool backwards)
      : groups_(groups), threads_per_group_(threads_per_group), backwards_(backwards) {}

  int threads() const { return groups_ * threads_per_group_; }
  int groups() const { return groups_; }
  int group_of(int thread) const { return thread / threads_per_group_; }
  bool first_block() const { return true; }
  long long barriers() const { return barriers_; }

  void barrier() { ++barriers_; }
  void block_barrier() {}

  template <typename Body>
  void each_thread(Body body) {
    in_order(threads(), body);
  }

  template <typename Body>
  void each_of_block(int count, Body body) {
    in_order(count, body);
  }

  template <typename Wanted, typename Body>
  void each_row(int count, Wanted wanted, Body body) {
    in_order(count, [&](int row) {
      if (wanted(row)) body(row);
    });
  }

  template <typename T, typename Body>
  void reduce(T* of_groups, Body body) {
    in_order(groups_, [&](int group) {
      T all = T::none();
      in_order(threads_per_group_, [&](int t) { all = T::merge(all, body(group * threads_per_group_ + t)); });
      of_groups[group] = all;
    });
  }

  template <typename T>
  T merged(const T* items, int count) {
    T all = T::none();
    in_order(count, [&](int i) { all = T::merge(all, items[i]); });
    return all;
  }

  // Lane by lane and then in halves, so that either side of a merge is of several values.
  template <typename Value>
  auto best_two(int count, Value value) {
    using T = decltype(value(0));
    constexpr int kLanes = 32;
    T lanes[kLanes];
    for (T& lane : lanes) lane = T::none();
    in_order(count, [&](int i) { lanes[i % kLanes] = T::merge(lanes[i % kLanes], value(i)); });
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int lane = 0; lane < half; ++lane) lanes[lane] = T::merge(lanes[lane], lanes[lane + half]);
    return lanes[0];
  }

  template <typename Keep, typename Put>
  int compact(int count, Keep keep, Put put) {
    int place = 0;
    for (int i = 0; i < count; ++i)
      if (keep(i)) put(i, place++);
    return place;
  }

  void raise_to(unsigned long long* target, unsigned long long value) { *target = std::max(*target, value); }

 private:
  template <typename Body>
  void in_order(int count, Body body) {
    for (int i = 0; i < count; ++i) body(backwards_ ? count - 1 - i : i);
  }

  int groups_, threads_per_group_;
  bool backwards_;
  long long barriers_ = 0;
};

}  // namespace salcr
