#pragma once
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <exception>

#include "each_isa.hpp"

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

}  // namespace

// Calls body(begin, end, thread) for all chunks of [0, count). What a body throws reaches the caller.
template <typename Body>
void parallel_chunks(std::int64_t count, std::int64_t chunk, int threads, Body&& body) {
  const std::int64_t chunks = (count + chunk - 1) / chunk;
  const int team = static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, chunks)));
  std::exception_ptr failure;
#pragma omp parallel for schedule(monotonic : dynamic) num_threads(team)
  for (std::int64_t c = 0; c < chunks; ++c)
    run_chunk(body, c * chunk, std::min(count, (c + 1) * chunk), omp_get_thread_num(), failure);
  if (failure) std::rethrow_exception(failure);
}

}  // namespace salcr
