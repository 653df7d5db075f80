// graph_cosines of salcr._C.

#include "binding.hpp"
#include "reranking.hpp"

namespace salcr {
namespace {

template <typename Real>
void bind_reranking(py::module_& m) {
  m.def(
      "graph_cosines",
      [](Array<std::int32_t> ranks, Array<Real> weights, Array<Real> cosines, int threads) {
        require(ranks.ndim() == 2 && weights.ndim() == 2 && cosines.ndim() == 2 && threads >= 1,
                "graph_cosines: wrong number of axes");
        const std::int64_t rows = ranks.shape(0), k = ranks.shape(1), k2 = weights.shape(1);
        const std::int64_t queries = cosines.shape(0);
        require(weights.shape(0) == rows && k2 <= k && queries + cosines.shape(1) == rows && rows < kMaxRows,
                "graph_cosines: shapes do not fit");
        for (py::ssize_t n = 0; n < ranks.size(); ++n)
          require(ranks.data()[n] >= 0 && ranks.data()[n] < rows, "graph_cosines: rank out of range");
        Real* out = cosines.mutable_data();
        py::gil_scoped_release release;
        graph_cosines<Real>({ranks.data(), weights.data(), rows, k, k2}, queries, out, threads);
      },
      py::arg("ranks").noconvert(), py::arg("weights").noconvert(), py::arg("cosines").noconvert(), py::arg("threads"));
}

}  // namespace

void bind_reranking(py::module_& m) {
  bind_reranking<float>(m);
  bind_reranking<double>(m);
}

}  // namespace salcr
