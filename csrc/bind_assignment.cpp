// solve_assignment of salcr._C: a batch of problems, in parallel.

#include <atomic>

#include "assignment.hpp"
#include "binding.hpp"
#include "parallel.hpp"

namespace salcr {
namespace {

template <typename Real>
void bind(py::module_& m) {
  m.def(
      "solve_assignment",
      [](py::array_t<Real, 0> costs, bool maximize, std::int64_t capacity, Array<std::int64_t> partners,
         Array<double> row_duals, Array<double> col_duals, int threads) {
        require(costs.ndim() == 3 && partners.ndim() == 2 && row_duals.ndim() == 2 && col_duals.ndim() == 2,
                "solve_assignment: wrong number of axes");
        const auto problems = costs.shape(0), rows = costs.shape(1), cols = costs.shape(2);
        constexpr auto kSize = static_cast<py::ssize_t>(sizeof(Real));
        require(rows > 0 && cols > 0 && (cols == 1 || costs.strides(2) == kSize) && costs.strides(1) % kSize == 0 &&
                    costs.strides(0) % kSize == 0,
                "solve_assignment: rows of the costs are not contiguous");
        require(partners.shape(0) == problems && partners.shape(1) == rows && row_duals.shape(0) == problems &&
                    row_duals.shape(1) == rows && col_duals.shape(0) == problems && col_duals.shape(1) == cols,
                "solve_assignment: shapes do not fit");
        require(rows < INT32_MAX && cols < INT32_MAX && capacity >= 1 && capacity < INT32_MAX &&
                    rows <= capacity * cols && threads >= 1,
                "solve_assignment: too many rows, or no threads");
        const Real* data = costs.data();
        const auto step = costs.strides(0) / kSize, stride = costs.strides(1) / kSize;
        auto* partner = partners.mutable_data();
        auto *u = row_duals.mutable_data(), *v = col_duals.mutable_data();
        std::atomic<bool> feasible = true;
        py::gil_scoped_release release;
        parallel_chunks(problems, 1, threads, [&](std::int64_t p, std::int64_t, int) {
          const Costs<Real> problem{data + p * step, rows, cols, stride, maximize ? -1.0 : 1.0};
          if (!solve_assignment(problem, capacity, partner + p * rows, u + p * rows, v + p * cols)) feasible = false;
        });
        return feasible.load();
      },
      py::arg("costs").noconvert(), py::arg("maximize"), py::arg("capacity"), py::arg("partners").noconvert(),
      py::arg("row_duals").noconvert(), py::arg("col_duals").noconvert(), py::arg("threads"));
}

}  // namespace

void bind_assignment(py::module_& m) {
  bind<float>(m);
  bind<double>(m);
}

}  // namespace salcr
