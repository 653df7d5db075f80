// batch_norm_relu and batch_norm_relu_backward of salcr._C.

#include <pybind11/stl.h>

#include <optional>

#include "batch_norm.hpp"
#include "binding.hpp"

namespace salcr {
namespace {

template <typename Real>
using Maybe = std::optional<Array<Real>>;

template <typename Real>
Real* data(Maybe<Real>& array) {
  return array ? array->mutable_data() : nullptr;
}

template <typename Real>
BatchNorm<Real> checked(const Array<Real>& x, const Array<Real>& weight, const Array<Real>& bias,
                        const Maybe<Real>& shortcut, Array<Real>& mean, Array<Real>& var, double eps, int threads) {
  require(x.ndim() == 2 && x.size() > 0 && threads >= 1, "batch_norm_relu: wrong shape of x, or wrong threads");
  for (const auto* channels : {&weight, &bias, static_cast<const Array<Real>*>(&mean), static_cast<const Array<Real>*>(&var)})
    require(channels->ndim() == 1 && channels->size() == x.shape(1), "batch_norm_relu: channels do not fit x");
  require(!shortcut || shortcut->size() == x.size(), "batch_norm_relu: shortcut does not fit x");
  return {x.data(),           weight.data(), bias.data(), shortcut ? shortcut->data() : nullptr,
          mean.mutable_data(), var.mutable_data(), x.shape(0), x.shape(1), eps, threads};
}

template <typename Real>
void bind(py::module_& m) {
  m.def(
      "batch_norm_relu",
      [](Array<Real> x, Array<Real> weight, Array<Real> bias, Maybe<Real> shortcut, Array<Real> mean, Array<Real> var,
         Array<Real> y, bool given, double eps, int threads) {
        const auto norm = checked(x, weight, bias, shortcut, mean, var, eps, threads);
        require(y.size() == x.size(), "batch_norm_relu: y does not fit x");
        Real* out = y.mutable_data();
        py::gil_scoped_release release;
        if (!given) batch_norm_statistics(norm);
        batch_norm_relu(norm, out);
      },
      py::arg("x").noconvert(), py::arg("weight").noconvert(), py::arg("bias").noconvert(),
      py::arg("shortcut").noconvert(), py::arg("mean").noconvert(), py::arg("var").noconvert(),
      py::arg("y").noconvert(), py::kw_only(), py::arg("given"), py::arg("eps"), py::arg("threads"));
  m.def(
      "batch_norm_relu_backward",
      [](Array<Real> gradient, Maybe<Real> again, Array<Real> x, Array<Real> weight, Array<Real> bias, Array<Real> mean,
         Array<Real> var, Array<Real> y, Array<Real> of_x, Array<Real> of_weight, Array<Real> of_bias,
         Maybe<Real> of_shortcut, bool given, double eps, int threads) {
        const auto norm = checked(x, weight, bias, Maybe<Real>(), mean, var, eps, threads);
        for (const auto* map : {&gradient, &y, &of_x, again ? &*again : &gradient, of_shortcut ? &*of_shortcut : &y})
          require(map->size() == x.size(), "batch_norm_relu_backward: a map does not fit x");
        require(of_weight.size() == x.shape(1) && of_bias.size() == x.shape(1),
                "batch_norm_relu_backward: channels do not fit x");
        const BatchNormGradients<Real> of{gradient.data(),      data(again), y.data(), of_x.mutable_data(),
                                          of_weight.mutable_data(), of_bias.mutable_data(), data(of_shortcut), given};
        py::gil_scoped_release release;
        batch_norm_relu_backward(norm, of);
      },
      py::arg("gradient").noconvert(), py::arg("again").noconvert(), py::arg("x").noconvert(),
      py::arg("weight").noconvert(), py::arg("bias").noconvert(), py::arg("mean").noconvert(),
      py::arg("var").noconvert(), py::arg("y").noconvert(), py::arg("of_x").noconvert(),
      py::arg("of_weight").noconvert(), py::arg("of_bias").noconvert(), py::arg("of_shortcut").noconvert(),
      py::kw_only(), py::arg("given"), py::arg("eps"), py::arg("threads"));
}

}  // namespace

void bind_batch_norm(py::module_& m) {
  bind<float>(m);
  bind<double>(m);
}

}  // namespace salcr
