// One batch position (its one or three maps, a few megabytes) is taken at a time, so that every pass but the first finds
// the maps in cache: the feature map crosses the memory bus once forward, and once backward with its gradient. Positions
// are independent and each sums in a fixed order: results do not depend on the number of threads.
#include "pooling.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.hpp"
#include "pooling_stripe.hpp"

namespace salcr {

namespace {

using stripe::Index;

// The map (v 0, a 1, r 2) that view `view` asks for a form (own 0, pg1 1, pg2 2). For its three forms a view asks each map once.
int asked(int form, int view) {
  if (form == 0) return view;
  if (form == 1) return view == 2 ? 0 : 2;
  return view == 1 ? 0 : 1;
}

// One thread's work on one position after the other.
template <typename Real>
class Position {
 public:
  explicit Position(const Pooling<Real>& pooling)
      : pooling(pooling),
        views(pooling.views),
        cell_count(pooling.parts ? pooling.cells / pooling.parts : 0),
        size(pooling.cells * pooling.width),
        scale(1 / std::sqrt(double(pooling.width))),
        copies(pooling.channels_last ? 0 : views * size),
        gradient_copies(pooling.channels_last || !pooling.map_gradient ? 0 : views * size),
        wide(3 * cell_count),
        narrow(3 * cell_count),
        rows(3 * pooling.width) {}

  void forward(Index position) {
    load(position);
    for (int m = 0; pooling.means && m < views; ++m)
      stripe::power_means(maps[m], pooling.cells, pooling.width, pooling.power, pooling.means + image(m) * pooling.width);
    for (Index p = 0; p < pooling.parts; ++p) {
      for (int v = 0; pooling.tokens && v < views; ++v) prototype(v, p);
      for (int m = 0; pooling.weights && m < views; ++m) views == 3 ? attend<3>(m, p) : attend<1>(m, p);
    }
  }

  void backward(Index position) {
    load(position);
    for (int m = 0; m < views; ++m) start_gradient(m);
    for (Index p = 0; p < pooling.parts; ++p) {
      for (int m = 0; pooling.weights && m < views; ++m) views == 3 ? attend_backward<3>(m, p) : attend_backward<1>(m, p);
      for (int v = 0; pooling.tokens && v < views; ++v) prototype_backward(v, p);
    }
    if (!pooling.channels_last)
      for (int m = 0; m < views; ++m)
        stripe::transpose(gradient_copies.data() + m * size, pooling.cells, pooling.width, pooling.map_gradient + image(m) * size);
  }

 private:
  Index image(int view) const { return view * (pooling.images / views) + position; }
  const Real* cells(int view, Index p) const { return maps[view] + p * cell_count * pooling.width; }
  Real* scores(int view, Index p) const { return pooling.scores + (image(view) * pooling.parts + p) * cell_count; }
  Real* query(int view, Index p) const { return pooling.queries + (image(view) * pooling.parts + p) * pooling.width; }
  Real* query_gradient(int view, Index p) const {
    return pooling.query_gradient + (image(view) * pooling.parts + p) * pooling.width;
  }
  Real* weights(int map, int view, Index p) const {
    return pooling.weights + ((image(map) * views + view) * pooling.parts + p) * cell_count;
  }
  Real* gradient(int view, Index p) {
    Real* whole = pooling.channels_last ? pooling.map_gradient + image(view) * size : gradient_copies.data() + view * size;
    return whole + p * cell_count * pooling.width;
  }

  void load(Index next) {
    position = next;
    for (int v = 0; v < views; ++v) {
      const Real* map = pooling.map + image(v) * size;
      if (!pooling.channels_last) stripe::transpose(map, pooling.width, pooling.cells, copies.data() + v * size);
      maps[v] = pooling.channels_last ? map : copies.data() + v * size;
    }
  }

  // What the power mean sends back, over all cells; zero without it.
  void start_gradient(int view) {
    Real* out = gradient(view, 0);
    if (!pooling.mean_gradient) return void(std::fill_n(out, size, Real(0)));
    stripe::power_means_backward(maps[view], pooling.cells, pooling.width, pooling.power,
                                 pooling.mean_gradient + image(view) * pooling.width, out);
  }

  void prototype(int view, Index p) {
    const Real* token = pooling.tokens + p * pooling.width;
    double* found = wide.data();
    Real *weight = narrow.data(), *out = query(view, p);
    stripe::dots<1>(cells(view, p), cell_count, pooling.width, &token, &found);
    std::copy_n(found, cell_count, scores(view, p));
    stripe::token_weights(found, cell_count, weight);
    stripe::weighted_sums<1, false>(cells(view, p), cell_count, pooling.width, &weight, &out);
  }

  template <int V>
  void attend(int map, Index p) {
    const Real* asking[V];
    double* found[V];
    Real *weight[V], *out[V];
    for (int v = 0; v < V; ++v) {
      asking[v] = query(v, p), found[v] = wide.data() + v * cell_count;
      weight[v] = weights(map, v, p), out[v] = rows.data() + v * pooling.width;
    }
    stripe::dots<V>(cells(map, p), cell_count, pooling.width, asking, found);
    for (int v = 0; v < V; ++v) {
      for (Index j = 0; j < cell_count; ++j) found[v][j] *= scale;
      stripe::softmax(found[v], cell_count, weight[v]);
    }
    stripe::weighted_sums<V, false>(cells(map, p), cell_count, pooling.width, weight, out);
    for (int v = 0; v < V; ++v)
      for (int form = 0; form < V; ++form)
        if (asked(form, v) == map)
          std::copy_n(out[v], pooling.width, pooling.forms[form] + (image(v) * pooling.parts + p) * pooling.width);
  }

  template <int V>
  void attend_backward(int map, Index p) {
    const Real *incoming[V], *factors[2 * V], *directions[2 * V];
    double* sent[V];
    Real *rounded[V], *asking[V];
    for (int v = 0; v < V; ++v) {
      incoming[v] = form_gradient<V>(map, v, p), asking[v] = query_gradient(v, p);
      sent[v] = wide.data() + v * cell_count, rounded[v] = narrow.data() + v * cell_count;
      factors[2 * v] = weights(map, v, p), directions[2 * v] = incoming[v];
      factors[2 * v + 1] = rounded[v], directions[2 * v + 1] = query(v, p);
    }
    stripe::dots<V>(cells(map, p), cell_count, pooling.width, incoming, sent);
    for (int v = 0; v < V; ++v) {
      stripe::softmax_backward(factors[2 * v], sent[v], cell_count);
      for (Index j = 0; j < cell_count; ++j) rounded[v][j] = Real(sent[v][j] * scale);
    }
    stripe::weighted_sums<V, true>(cells(map, p), cell_count, pooling.width, rounded, asking);
    stripe::spread<2 * V>(gradient(map, p), cell_count, pooling.width, factors, directions);
  }

  // Gradient of the one form in which `view` asked `map`.
  template <int V>
  const Real* form_gradient(int map, int view, Index p) const {
    int form = 0;
    while (form + 1 < V && asked(form, view) != map) ++form;
    return pooling.form_gradients[form] + (image(view) * pooling.parts + p) * pooling.width;
  }

  void prototype_backward(int view, Index p) {
    const Real *incoming = query_gradient(view, p), *given = scores(view, p), *token = pooling.tokens + p * pooling.width;
    double *sent = wide.data(), *again = sent + cell_count;
    Real *weight = narrow.data(), *rounded = weight + cell_count;
    stripe::dots<1>(cells(view, p), cell_count, pooling.width, &incoming, &sent);
    std::copy_n(given, cell_count, again);
    stripe::token_weights(again, cell_count, weight);
    stripe::softmax_backward(weight, sent, cell_count);
    for (Index j = 0; j < cell_count; ++j) rounded[j] = Real(sent[j] / (1 + std::exp(double(given[j]))));
    Real* out = pooling.token_gradient + (position * pooling.parts + p) * pooling.width;
    if (view == 0) stripe::weighted_sums<1, false>(cells(view, p), cell_count, pooling.width, &rounded, &out);
    else stripe::weighted_sums<1, true>(cells(view, p), cell_count, pooling.width, &rounded, &out);
    const Real *factors[] = {weight, rounded}, *directions[] = {incoming, token};
    stripe::spread<2>(gradient(view, p), cell_count, pooling.width, factors, directions);
  }

  const Pooling<Real>& pooling;
  const int views;
  const Index cell_count, size;
  const double scale;
  std::vector<Real> copies, gradient_copies;  // channels last, of maps that are not
  std::vector<double> wide;                   // scratch: scores of three stripes' cells
  std::vector<Real> narrow, rows;             // and weights of as many, and three rows of the width
  const Real* maps[3] = {};
  Index position = 0;
};

template <typename Real, typename Body>
void for_positions(const Pooling<Real>& pooling, Body&& body) {
  const Index positions = pooling.images / pooling.views;
  std::vector<Position<Real>> workers(std::min<Index>(pooling.threads, positions), Position<Real>(pooling));
  parallel_chunks(positions, 1, pooling.threads, [&](Index n, Index, int thread) { body(workers[thread], n); });
}

}  // namespace

template <typename Real>
void pool_forward(const Pooling<Real>& pooling) {
  for_positions(pooling, [](Position<Real>& worker, Index position) { worker.forward(position); });
}

template <typename Real>
void pool_backward(const Pooling<Real>& pooling) {
  for_positions(pooling, [](Position<Real>& worker, Index position) { worker.backward(position); });
}

template void pool_forward<float>(const Pooling<float>&);
template void pool_forward<double>(const Pooling<double>&);
template void pool_backward<float>(const Pooling<float>&);
template void pool_backward<double>(const Pooling<double>&);

}  // namespace salcr
