// pool_forward and pool_backward of salcr._C: keyword arguments named like the fields of Pooling, None for null.

#include <string>

#include "binding.hpp"
#include "pooling.hpp"

namespace salcr {
namespace {

// The data of the argument `name`, which has to have `size` elements; null where it is None.
template <typename Real>
Real* data(const py::dict& arrays, const char* name, py::ssize_t size) {
  if (!arrays.contains(name) || arrays[name].is_none()) return nullptr;
  if (!py::isinstance<py::array_t<Real, py::array::c_style>>(arrays[name]))
    throw std::invalid_argument(std::string(name) + " is no contiguous array of the dtype of map");
  auto array = py::reinterpret_borrow<py::array>(arrays[name]);
  if (array.size() != size) throw std::invalid_argument(std::string(name) + " has the wrong size");
  return static_cast<Real*>(array.mutable_data());
}

template <typename Real>
using Pool = void (*)(const Pooling<Real>&);

template <typename Real>
void bind_pooling(py::module_& m, const char* function, Pool<Real> pool, bool backward) {
  m.def(
      function,
      [pool, backward](py::array_t<Real, py::array::c_style> map, bool channels_last, std::int64_t parts, int views,
             double power, int threads, const py::kwargs& arrays) {
        if (map.ndim() != 3 || parts < 0 || threads < 1 || (views != 1 && views != 3) || map.shape(0) % views)
          throw std::invalid_argument("pooling: wrong shape of map, or wrong parts, views or threads");
        Pooling<Real> k{};
        k.images = map.shape(0), k.cells = map.shape(channels_last ? 1 : 2), k.width = map.shape(channels_last ? 2 : 1);
        if (parts > k.cells) throw std::invalid_argument("pooling: more parts than cells");
        k.parts = parts, k.views = views, k.channels_last = channels_last;
        k.power = power, k.threads = threads, k.map = map.data();
        const auto rows = k.images * parts * k.width, cells = parts ? k.images * parts * (k.cells / parts) : 0;
        k.tokens = data<Real>(arrays, "tokens", parts * k.width);
        k.means = data<Real>(arrays, "means", k.images * k.width);
        k.scores = data<Real>(arrays, "scores", cells);
        k.queries = data<Real>(arrays, "queries", rows);
        k.weights = data<Real>(arrays, "weights", cells * views);
        k.mean_gradient = data<Real>(arrays, "mean_gradient", k.images * k.width);
        k.query_gradient = data<Real>(arrays, "query_gradient", rows);
        k.token_gradient = data<Real>(arrays, "token_gradient", rows / views);
        k.map_gradient = data<Real>(arrays, "map_gradient", map.size());
        const char *forms[] = {"own", "pg1", "pg2"}, *gradients[] = {"own_gradient", "pg1_gradient", "pg2_gradient"};
        for (int n = 0; n < 3; ++n) {
          k.forms[n] = data<Real>(arrays, forms[n], rows);
          k.form_gradients[n] = data<Real>(arrays, gradients[n], rows);
          if (k.weights && n < views && !(backward ? k.form_gradients[n] : k.forms[n]))
            throw std::invalid_argument("pooling: a form is missing");
        }
        if ((k.tokens && (!k.scores || !k.queries || (backward && !k.token_gradient))) || (k.weights && !k.queries) ||
            (backward && (!k.map_gradient || ((k.weights || k.tokens) && !k.query_gradient))))
          throw std::invalid_argument("pooling: an array is missing");
        py::gil_scoped_release release;
        pool(k);
      },
      py::arg("map").noconvert(), py::kw_only(), py::arg("channels_last"), py::arg("parts"), py::arg("views"),
      py::arg("power"), py::arg("threads"));
}

}  // namespace

void bind_pooling(py::module_& m) {
  bind_pooling<float>(m, "pool_forward", pool_forward<float>, false);
  bind_pooling<double>(m, "pool_forward", pool_forward<double>, false);
  bind_pooling<float>(m, "pool_backward", pool_backward<float>, true);
  bind_pooling<double>(m, "pool_backward", pool_backward<double>, true);
}

}  // namespace salcr
