// jaccard_graph and jaccard_distance of salcr._C.

#include "binding.hpp"
#include "jaccard.hpp"
#include "jaccard_encodings.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kMaxRows = std::int64_t{1} << 31;  // indices are kept in 32 bits

template <typename Real>
Neighbours<Real> neighbours(const Array<std::int32_t>& ranks, const Array<Real>& products, const Array<Real>& features,
                            std::int64_t half, std::int64_t k2, int threads) {
  require(ranks.ndim() == 2 && products.ndim() == 2 && features.ndim() == 2, "jaccard: wrong number of axes");
  const std::int64_t rows = ranks.shape(0), k = ranks.shape(1);
  require(products.shape(0) == rows && products.shape(1) == k && features.shape(0) == rows && rows < kMaxRows,
          "jaccard: shapes do not fit");
  require(half >= 1 && half <= k && k2 >= 1 && k2 <= k && threads >= 1, "jaccard: half or k2 out of range");
  for (py::ssize_t n = 0; n < ranks.size(); ++n)
    require(ranks.data()[n] >= 0 && ranks.data()[n] < rows, "jaccard: rank out of range");
  return {ranks.data(), products.data(), features.data(), rows, k, features.shape(1)};
}

template <typename Real>
void bind(py::module_& m) {
  m.def(
      "jaccard_graph",
      [](Array<std::int32_t> ranks, Array<Real> products, Array<Real> features, std::int64_t half, std::int64_t k2,
         float max_distance, int threads) {
        const auto near = neighbours(ranks, products, features, half, k2, threads);
        require(max_distance >= 0 && max_distance < 1, "jaccard_graph: max_distance out of range");
        Graph graph;
        {
          py::gil_scoped_release release;
          graph = jaccard_graph(encode(near, half, k2, threads), max_distance, threads);
        }
        return py::make_tuple(as_array(std::move(graph.pointers)), as_array(std::move(graph.columns)),
                              as_array(std::move(graph.distances)));
      },
      py::arg("ranks").noconvert(), py::arg("products").noconvert(), py::arg("features").noconvert(), py::arg("half"),
      py::arg("k2"), py::arg("max_distance"), py::arg("threads"));
  m.def(
      "jaccard_distance",
      [](Array<std::int32_t> ranks, Array<Real> products, Array<Real> features, std::int64_t half, std::int64_t k2,
         Array<float> distances, int threads) {
        const auto near = neighbours(ranks, products, features, half, k2, threads);
        require(distances.ndim() == 2 && distances.shape(0) == near.rows && distances.shape(1) == near.rows,
                "jaccard_distance: shapes do not fit");
        float* data = distances.mutable_data();
        py::gil_scoped_release release;
        jaccard_distance(encode(near, half, k2, threads), data, threads);
      },
      py::arg("ranks").noconvert(), py::arg("products").noconvert(), py::arg("features").noconvert(), py::arg("half"),
      py::arg("k2"), py::arg("distances").noconvert(), py::arg("threads"));
}

}  // namespace

void bind_jaccard(py::module_& m) {
  bind<float>(m);
  bind<double>(m);
}

}  // namespace salcr
