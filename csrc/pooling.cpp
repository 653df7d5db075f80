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

// The map that view `view` asks for a form (own 0, pg1 1, pg2 2; maps v 0, a 1, r 2): each of the three once.
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
      : k(pooling),
        views(k.views),
        cell_count(k.parts ? k.cells / k.parts : 0),
        size(k.cells * k.width),
        scale(1 / std::sqrt(double(k.width))),
        copies(k.channels_last ? 0 : views * size),
        gradient_copies(k.channels_last || !k.map_gradient ? 0 : views * size),
        wide(3 * cell_count),
        narrow(3 * cell_count),
        rows(3 * k.width) {}

  void forward(Index position) {
    load(position);
    for (int m = 0; k.means && m < views; ++m)
      stripe::power_means(maps[m], k.cells, k.width, k.power, k.means + image(m) * k.width);
    for (Index p = 0; p < k.parts; ++p) {
      for (int v = 0; k.tokens && v < views; ++v) prototype(v, p);
      for (int m = 0; k.weights && m < views; ++m) views == 3 ? attend<3>(m, p) : attend<1>(m, p);
    }
  }

  void backward(Index position) {
    load(position);
    for (int m = 0; m < views; ++m) start_gradient(m);
    for (Index p = 0; p < k.parts; ++p) {
      for (int m = 0; k.weights && m < views; ++m) views == 3 ? attend_backward<3>(m, p) : attend_backward<1>(m, p);
      for (int v = 0; k.tokens && v < views; ++v) prototype_backward(v, p);
    }
    if (!k.channels_last)
      for (int m = 0; m < views; ++m)
        stripe::transpose(gradient_copies.data() + m * size, k.cells, k.width, k.map_gradient + image(m) * size);
  }

 private:
  Index image(int view) const { return view * (k.images / views) + position; }
  const Real* cells(int view, Index p) const { return maps[view] + p * cell_count * k.width; }
  Real* scores(int view, Index p) const { return k.scores + (image(view) * k.parts + p) * cell_count; }
  Real* query(int view, Index p) const { return k.queries + (image(view) * k.parts + p) * k.width; }
  Real* query_gradient(int view, Index p) const { return k.query_gradient + (image(view) * k.parts + p) * k.width; }
  Real* weights(int map, int view, Index p) const {
    return k.weights + ((image(map) * views + view) * k.parts + p) * cell_count;
  }
  Real* gradient(int view, Index p) {
    Real* whole = k.channels_last ? k.map_gradient + image(view) * size : gradient_copies.data() + view * size;
    return whole + p * cell_count * k.width;
  }

  void load(Index next) {
    position = next;
    for (int v = 0; v < views; ++v) {
      const Real* map = k.map + image(v) * size;
      if (!k.channels_last) stripe::transpose(map, k.width, k.cells, copies.data() + v * size);
      maps[v] = k.channels_last ? map : copies.data() + v * size;
    }
  }

  // What the power mean sends back, over all cells; zero without it.
  void start_gradient(int view) {
    Real* out = gradient(view, 0);
    if (!k.mean_gradient) return void(std::fill_n(out, size, Real(0)));
    stripe::power_means_backward(maps[view], k.cells, k.width, k.power, k.mean_gradient + image(view) * k.width, out);
  }

  void prototype(int view, Index p) {
    const Real* token = k.tokens + p * k.width;
    double* found = wide.data();
    Real *weight = narrow.data(), *out = query(view, p);
    stripe::dots<1>(cells(view, p), cell_count, k.width, &token, &found);
    std::copy_n(found, cell_count, scores(view, p));
    stripe::token_weights(found, cell_count, weight);
    stripe::weighted_sums<1, false>(cells(view, p), cell_count, k.width, &weight, &out);
  }

  template <int V>
  void attend(int map, Index p) {
    const Real* asking[V];
    double* found[V];
    Real *weight[V], *out[V];
    for (int v = 0; v < V; ++v) {
      asking[v] = query(v, p), found[v] = wide.data() + v * cell_count;
      weight[v] = weights(map, v, p), out[v] = rows.data() + v * k.width;
    }
    stripe::dots<V>(cells(map, p), cell_count, k.width, asking, found);
    for (int v = 0; v < V; ++v) {
      for (Index j = 0; j < cell_count; ++j) found[v][j] *= scale;
      stripe::softmax(found[v], cell_count, weight[v]);
    }
    stripe::weighted_sums<V, false>(cells(map, p), cell_count, k.width, weight, out);
    for (int v = 0; v < V; ++v)
      for (int form = 0; form < V; ++form)
        if (asked(form, v) == map)
          std::copy_n(out[v], k.width, k.forms[form] + (image(v) * k.parts + p) * k.width);
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
    stripe::dots<V>(cells(map, p), cell_count, k.width, incoming, sent);
    for (int v = 0; v < V; ++v) {
      stripe::softmax_backward(factors[2 * v], sent[v], cell_count);
      for (Index j = 0; j < cell_count; ++j) rounded[v][j] = Real(sent[v][j] * scale);
    }
    stripe::weighted_sums<V, true>(cells(map, p), cell_count, k.width, rounded, asking);
    stripe::spread<2 * V>(gradient(map, p), cell_count, k.width, factors, directions);
  }

  // Gradient of the one form in which `view` asked `map`.
  template <int V>
  const Real* form_gradient(int map, int view, Index p) const {
    int form = 0;
    while (form + 1 < V && asked(form, view) != map) ++form;
    return k.form_gradients[form] + (image(view) * k.parts + p) * k.width;
  }

  void prototype_backward(int view, Index p) {
    const Real *incoming = query_gradient(view, p), *given = scores(view, p), *token = k.tokens + p * k.width;
    double *sent = wide.data(), *again = sent + cell_count;
    Real *weight = narrow.data(), *rounded = weight + cell_count;
    stripe::dots<1>(cells(view, p), cell_count, k.width, &incoming, &sent);
    std::copy_n(given, cell_count, again);
    stripe::token_weights(again, cell_count, weight);
    stripe::softmax_backward(weight, sent, cell_count);
    for (Index j = 0; j < cell_count; ++j) rounded[j] = Real(sent[j] / (1 + std::exp(double(given[j]))));
    Real* out = k.token_gradient + (position * k.parts + p) * k.width;
    if (view == 0) stripe::weighted_sums<1, false>(cells(view, p), cell_count, k.width, &rounded, &out);
    else stripe::weighted_sums<1, true>(cells(view, p), cell_count, k.width, &rounded, &out);
    const Real *factors[] = {weight, rounded}, *directions[] = {incoming, token};
    stripe::spread<2>(gradient(view, p), cell_count, k.width, factors, directions);
  }

  const Pooling<Real>& k;
  const int views;
  const Index cell_count, size;
  const double scale;
  std::vector<Real> copies, gradient_copies;
  std::vector<double> wide;
  std::vector<Real> narrow, rows;
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
