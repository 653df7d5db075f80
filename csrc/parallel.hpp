#pragma once
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#include "each_isa.hpp"
#include "interrupts.hpp"

namespace salcr {
namespace {

struct Failure {
  void keep() {
#pragma omp critical
    error = std::current_exception();
    happened = true;
  }

  std::exception_ptr error;
  std::atomic<bool> happened = false;
};

// What a body throws is kept here: GCC takes it that a function for each ISA throws nothing, so an exception that left one
// would end the process, whoever catches further up.
template <typename Body>
SALCR_FOR_EACH_ISA void run_chunk(Body& body, std::int64_t begin, std::int64_t end, int thread, Failure& failure) {
  try {
    body(begin, end, thread);
  } catch (...) {
    failure.keep();
  }
}

inline void poll(Interrupts& interrupts, Failure& failure) {
  try {
    interrupts.poll();
  } catch (...) {
    failure.keep();
  }
}

}  // namespace

// Calls body(begin, end, thread) for all chunks of [0, count). What a body throws reaches the caller, and so does what a handler of
// a signal raises: chunks that have not begun are left out then.
template <typename Body>
void parallel_chunks(std::int64_t count, std::int64_t chunk, int threads, Body&& body) {
  const std::int64_t chunks = (count + chunk - 1) / chunk;
  const int team = static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, chunks)));
  Failure failure;
  Interrupts interrupts;
#pragma omp parallel for schedule(monotonic : dynamic) num_threads(team)
  for (std::int64_t c = 0; c < chunks; ++c) {
    if (failure.happened.load(std::memory_order_relaxed)) continue;
    run_chunk(body, c * chunk, std::min(count, (c + 1) * chunk), omp_get_thread_num(), failure);
    if (omp_get_thread_num() == 0) poll(interrupts, failure);
  }
  if (failure.error) std::rethrow_exception(failure.error);
}

}  // namespace salcr
