#pragma once
#include <cstdint>

namespace salcr {

struct SinkhornOptions {
  double lam, tol;
  std::int64_t max_iter, check_every;
};

// Transport plans [problems, rows, columns] of costs of the same shape, with uniform marginals; each problem stops on its own.
template <typename Real>
void sinkhorn(const Real* cost, std::int64_t problems, std::int64_t rows, std::int64_t columns,
              const SinkhornOptions& options, Real* plan, int threads);

}  // namespace salcr
