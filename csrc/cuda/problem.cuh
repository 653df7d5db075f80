// A problem of shortest_paths.cuh in memory, and the values that its threads merge.
#pragma once

#ifdef __CUDACC__
#include "scope.cuh"
#else
#include "emulation.hpp"
#endif

namespace salcr {

constexpr int kStaged = 64;  // expanded rows that a block keeps in shared memory at a time

template <typename Real>
struct Costs {
  const Real* first;
  long long stride;  // between rows
  bool negated;      // maximise

  __device__ double operator()(int row, int column) const {
    const Real given = first[row * stride + column];
    return static_cast<double>(negated ? -given : given);
  }
  __device__ double as_given(double x) const { return negated ? -x : x; }
};

// The arrays of one problem; `label` and `bid` share memory, being of different phases.
struct State {
  int rows, columns, capacity;
  double* price;               // [columns]
  double* label;               // [columns] length of the shortest path so far
  unsigned long long* bid;     // [columns] highest bid of the round: float32 bits, then the complement of the row
  int* via;                    // [columns] the row that comes before the column on that path
  int* held;                   // [columns] how many rows the column has
  unsigned char* waiting;      // [columns] the label fell after the last expansion
  int* row_of_slot;            // [columns * capacity]; a slot is column * capacity + n
  int* slot_of_row;            // [rows] or -1
  int* free_rows;              // [rows]
};

// A column and its label; `none()` loses against every other.
struct Candidate {
  double label;
  int column;

  static __device__ Candidate none() { return {infinity(), 0x7fffffff}; }
  static __device__ Candidate merge(Candidate a, Candidate b) {
    const bool takes_b = b.label < a.label || (b.label == a.label && b.column < a.column);
    return {takes_b ? b.label : a.label, takes_b ? b.column : a.column};
  }
};

// Of a group's own columns: the nearest with room, and the nearest full one that waits.
struct Offer {
  Candidate room, next;

  static __device__ Offer none() { return {Candidate::none(), Candidate::none()}; }
  static __device__ Offer merge(Offer a, Offer b) {
    return {Candidate::merge(a.room, b.room), Candidate::merge(a.next, b.next)};
  }
};

struct Count {
  int value;

  static __device__ Count none() { return {0}; }
  static __device__ Count merge(Count a, Count b) { return {a.value + b.value}; }
};

// The cheapest column of a row and the value of the second cheapest. Of equal columns one with room comes first, then the
// first at or after the row's own index: equal rows bid for different columns.
struct BestTwo {
  double first, second;
  unsigned rank;
  int column;

  static __device__ BestTwo none() { return {infinity(), infinity(), ~0u, -1}; }
  static __device__ BestTwo merge(BestTwo a, BestTwo b) {
    const bool takes_b = b.first < a.first || (b.first == a.first && b.rank < a.rank);
    const double beaten = takes_b ? a.first : b.first, second = takes_b ? b.second : a.second;
    return {takes_b ? b.first : a.first, second < beaten ? second : beaten, takes_b ? b.rank : a.rank,
            takes_b ? b.column : a.column};
  }
};

// A row whose edges a step follows: the label of its column, and its dual.
struct Expanded {
  double label, dual;
  int row;
};

// What a team shares beside a problem's state. Steps alternate between two sets of offers: one can be written while another
// thread still reads the last, so that a step needs only one barrier.
struct Board {
  Offer* offers;         // [2, groups]
  Count* counts;         // [groups]
  Candidate* frontier;   // [groups], a copy in every block
  Expanded* staged;      // [kStaged], a copy in every block
};

struct Solution {
  long long* row_to_column;  // [rows]
  double* row_duals;         // [rows]
  double* column_duals;      // [columns]
  long long* solved;         // 0: no way to assign every row, and nothing else is written
};

}  // namespace salcr

#ifdef __CUDACC__
#include "warp.cuh"
#endif
