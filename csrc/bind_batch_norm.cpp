// batch_norm_relu and batch_norm_relu_backward of salcr._C.

#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "batch_norm.hpp"
#include "binding.hpp"

namespace salcr {
namespace {

template <typename Real>
using Maybe = std::optional<Array<Real>>;

// Of one map, or of two: x and the shortcut, where that has a norm.
template <typename Real>
using Arrays = std::vector<Array<Real>>;

template <typename Real>
Real* data(Maybe<Real>& array) {
  return array ? array->mutable_data() : nullptr;
}

template <typename Real>
Norm<Real> norm_of(Arrays<Real>& maps, Arrays<Real>& parameters, Arrays<Real>& statistics, std::size_t n) {
  if (n >= maps.size()) return {};
  return {maps[n].data(), parameters[2 * n].data(), parameters[2 * n + 1].data(), statistics[2 * n].mutable_data(),
          statistics[2 * n + 1].mutable_data()};
}

template <typename Real>
BatchNorm<Real> checked(Arrays<Real>& maps, Arrays<Real>& parameters, const Maybe<Real>& shortcut,
                        Arrays<Real>& statistics, double eps, int threads) {
  require(maps.size() == 1 || maps.size() == 2, "batch_norm_relu: one map has a norm, or two have");
  require(parameters.size() == 2 * maps.size() && statistics.size() == 2 * maps.size(),
          "batch_norm_relu: parameters or statistics do not fit the maps");
  const auto& x = maps[0];
  require(x.ndim() == 2 && x.size() > 0 && threads >= 1, "batch_norm_relu: wrong shape of x, or wrong threads");
  for (const auto* arrays : {&parameters, &statistics})
    for (const auto& channels : *arrays)
      require(channels.ndim() == 1 && channels.size() == x.shape(1), "batch_norm_relu: channels do not fit x");
  require(maps.back().size() == x.size() && (!shortcut || shortcut->size() == x.size()),
          "batch_norm_relu: shortcut does not fit x");
  return {norm_of(maps, parameters, statistics, 0), norm_of(maps, parameters, statistics, 1),
          shortcut ? shortcut->data() : nullptr, x.shape(0), x.shape(1), eps, threads};
}

template <typename Real>
NormGradients<Real> gradients_of(Arrays<Real>& maps, Arrays<Real>& parameters, std::size_t n) {
  if (n >= maps.size()) return {};
  return {maps[n].mutable_data(), parameters[2 * n].mutable_data(), parameters[2 * n + 1].mutable_data()};
}

template <typename Real>
bool fit(const Arrays<Real>& some, const Arrays<Real>& others) {
  bool same = some.size() == others.size();
  for (std::size_t n = 0; same && n < some.size(); ++n) same = some[n].size() == others[n].size();
  return same;
}

template <typename Real>
void bind_batch_norm(py::module_& m) {
  m.def(
      "batch_norm_relu",
      [](Arrays<Real> maps, Arrays<Real> parameters, Maybe<Real> shortcut, Arrays<Real> statistics, Array<Real> y,
         bool given, double eps, int threads) {
        const auto norm = checked(maps, parameters, shortcut, statistics, eps, threads);
        require(y.size() == maps[0].size(), "batch_norm_relu: y does not fit x");
        Real* out = y.mutable_data();
        py::gil_scoped_release release;
        if (!given) batch_norm_statistics(norm);
        batch_norm_relu(norm, out);
      },
      py::arg("maps").noconvert(), py::arg("parameters").noconvert(), py::arg("shortcut").noconvert(),
      py::arg("statistics").noconvert(), py::arg("y").noconvert(), py::kw_only(), py::arg("given"), py::arg("eps"),
      py::arg("threads"));
  m.def(
      "batch_norm_relu_backward",
      [](Array<Real> gradient, Maybe<Real> again, Arrays<Real> maps, Arrays<Real> parameters, Arrays<Real> statistics,
         Array<Real> y, Arrays<Real> of_maps, Arrays<Real> of_parameters, Maybe<Real> of_shortcut, bool given,
         double eps, int threads) {
        const auto norm = checked(maps, parameters, Maybe<Real>(), statistics, eps, threads);
        for (const auto* map : {&gradient, &y, again ? &*again : &gradient, of_shortcut ? &*of_shortcut : &y})
          require(map->size() == maps[0].size(), "batch_norm_relu_backward: a map does not fit x");
        require(fit(of_maps, maps) && fit(of_parameters, parameters),
                "batch_norm_relu_backward: gradients do not fit what they are of");
        const BatchNormGradients<Real> of{gradient.data(),
                                          data(again),
                                          y.data(),
                                          gradients_of(of_maps, of_parameters, 0),
                                          gradients_of(of_maps, of_parameters, 1),
                                          data(of_shortcut),
                                          given};
        py::gil_scoped_release release;
        batch_norm_relu_backward(norm, of);
      },
      py::arg("gradient").noconvert(), py::arg("again").noconvert(), py::arg("maps").noconvert(),
      py::arg("parameters").noconvert(), py::arg("statistics").noconvert(), py::arg("y").noconvert(),
      py::arg("of_maps").noconvert(), py::arg("of_parameters").noconvert(), py::arg("of_shortcut").noconvert(),
      py::kw_only(), py::arg("given"), py::arg("eps"), py::arg("threads"));
}

}  // namespace

void bind_batch_norm(py::module_& m) {
  bind_batch_norm<float>(m);
  bind_batch_norm<double>(m);
}

}  // namespace salcr
