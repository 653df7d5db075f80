#pragma once
#include <cstdint>

namespace salcr {

// Pooling of a map of B images by GeM, part tokens and attention; what is null is not asked for. All arrays are row-major.
// A map is [B, cells, D] (channels last) or [B, D, cells]. With three views, images n, n + B/3 and n + 2B/3 belong together.
template <typename Real>
struct Pooling {
  std::int64_t images, cells, width, parts;
  int views;           // 1, or 3: every map is asked by the queries of its three views
  bool channels_last;  // memory format of `map` and `map_gradient`
  double power;        // of GeM
  int threads;

  const Real* map;
  const Real* tokens;  // [P, D]
  Real* means;         // [B, D], means of map^power, before the root
  Real* scores;        // [B, P, T], token times cell
  Real* queries;       // [B, P, D], the prototypes where there are tokens
  Real* weights;       // [B, views, P, T], attention of each view's query to the map's cells
  Real* forms[3];      // own, pg1, pg2: [B, P, D]; with one view only the first

  const Real* form_gradients[3];
  const Real* mean_gradient;  // [B, D]
  Real* query_gradient;  // [B, P, D], in: of the queries themselves, out: with what the maps they asked sent back
  Real* token_gradient;  // [B/views, P, D], to be added up
  Real* map_gradient;    // as map
};

template <typename Real>
void pool_forward(const Pooling<Real>& pooling);

template <typename Real>
void pool_backward(const Pooling<Real>& pooling);

}  // namespace salcr
