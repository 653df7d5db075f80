// intersect_sets and unite_sets of salcr._C.

#include <pybind11/stl.h>

#include <algorithm>
#include <limits>

#include "binding.hpp"
#include "index_sets.hpp"

namespace salcr {
namespace {

using Rows = Array<std::int64_t>;
using Merge = void (*)(const std::vector<IndexSets>&, std::int64_t, std::int64_t, std::int64_t*, int);

void run(Merge merge, const std::vector<Rows>& sets, Rows& out, bool narrowest, int threads) {
  require(!sets.empty() && out.ndim() == 2 && threads >= 1, "index sets: shapes do not fit");
  std::vector<IndexSets> operands;
  py::ssize_t width = narrowest ? std::numeric_limits<py::ssize_t>::max() : 0;
  for (const Rows& rows : sets) {
    require(rows.ndim() == 2 && rows.shape(0) == out.shape(0), "index sets: shapes do not fit");
    operands.push_back({rows.data(), rows.shape(1)});
    width = narrowest ? std::min(width, rows.shape(1)) : width + rows.shape(1);
  }
  require(out.shape(1) == width, "index sets: shapes do not fit");
  const py::ssize_t count = out.shape(0);
  std::int64_t* result = out.mutable_data();
  py::gil_scoped_release release;
  merge(operands, count, width, result, threads);
}

}  // namespace

void bind_index_sets(py::module_& m) {
  m.def(
      "intersect_sets",
      [](std::vector<Rows> sets, Rows out, int threads) { run(intersect_sets, sets, out, true, threads); },
      py::arg("sets"), py::arg("out").noconvert(), py::arg("threads"));
  m.def(
      "unite_sets",
      [](std::vector<Rows> sets, Rows out, int threads) { run(unite_sets, sets, out, false, threads); },
      py::arg("sets"), py::arg("out").noconvert(), py::arg("threads"));
}

}  // namespace salcr
