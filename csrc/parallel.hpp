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

// What a body throws is kept here: GCC takes it that a function for each ISA throws nothing, so an exception that left one
// would end the process, whoever catches further up.
template <typename Body>
SALCR_FOR_EACH_ISA void run_chunk(Body& body, std::int64_t begin, std::int64_t end, int thread, std::exception_ptr& failure) {
  try {
    body(begin, end, thread);
  } catch (...) {
#pragma omp critical
    failure = std::current_exception();
  }
}

// False if a handler raised.
inline bool poll(Interrupts& interrupts, std::exception_ptr& failure) {
  try {
    interrupts.poll();
    return true;
  } catch (...) {
#pragma omp critical
    failure = std::current_exception();
    return false;
  }
}

}  // namespace

// Calls body(begin, end, thread) for all chunks of [0, count). What a body throws reaches the caller, and so does what a handler of
// a signal raises: chunks that have not begun are left out then.
template <typename Body>
void parallel_chunks(std::int64_t count, std::int64_t chunk, int threads, Body&& body) {
  const std::int64_t chunks = (count + chunk - 1) / chunk;
  const int team = static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, chunks)));
  std::exception_ptr failure;
  std::atomic<bool> interrupted = false;
  Interrupts interrupts;
#pragma omp parallel for schedule(monotonic : dynamic) num_threads(team)
  for (std::int64_t c = 0; c < chunks; ++c) {
    if (interrupted.load(std::memory_order_relaxed)) continue;
    run_chunk(body, c * chunk, std::min(count, (c + 1) * chunk), omp_get_thread_num(), failure);
    if (omp_get_thread_num() == 0 && !poll(interrupts, failure)) interrupted = true;
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace salcr
