#include "binding.hpp"
#include "sinkhorn.hpp"

namespace salcr {
namespace {

template <typename Real>
void bind_sinkhorn(py::module_& m) {
  m.def(
      "sinkhorn",
      [](Array<Real> cost, double lam, double tol, std::int64_t max_iter, std::int64_t check_every, Array<Real> plan,
         int threads) {
        require(cost.ndim() == 3 && cost.size() > 0 && plan.ndim() == 3, "sinkhorn: wrong number of axes");
        for (int axis = 0; axis < 3; ++axis)
          require(cost.shape(axis) == plan.shape(axis), "sinkhorn: shapes do not fit");
        require(max_iter >= 1 && check_every >= 1 && threads >= 1, "sinkhorn: option out of range");
        Real* out = plan.mutable_data();
        py::gil_scoped_release release;
        sinkhorn(cost.data(), cost.shape(0), cost.shape(1), cost.shape(2), {lam, tol, max_iter, check_every}, out,
                 threads);
      },
      py::arg("cost").noconvert(), py::arg("lam"), py::arg("tol"), py::arg("max_iter"), py::arg("check_every"),
      py::arg("plan").noconvert(), py::arg("threads"));
}

}  // namespace

void bind_sinkhorn(py::module_& m) {
  bind_sinkhorn<float>(m);
  bind_sinkhorn<double>(m);
}

}  // namespace salcr
