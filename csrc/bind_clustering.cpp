// From features to pseudo labels: bindings of the neighbour search, the Jaccard distances, DBSCAN and centroids.

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "binding.hpp"
#include "centroids.hpp"
#include "dbscan.hpp"
#include "jaccard.hpp"
#include "jaccard_encodings.hpp"
#include "knn.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kMaxRows = std::int64_t{1} << 31;  // indices are kept in 32 bits

template <typename Real>
using Terms = std::optional<Array<Real>>;

template <typename Real>
void bind_topk(py::module_& m, const char* name) {
  py::class_<TopK<Real>>(m, name)
      .def(py::init([](std::int64_t rows, std::int64_t k) {
             require(rows >= 1 && k >= 1, "TopK: rows and k must be positive");
             return std::make_unique<TopK<Real>>(rows, k);
           }),
           py::arg("rows"), py::arg("k"))
      .def(
          "add",
          [](TopK<Real>& self, Array<Real> tile, std::int64_t first_row, std::int64_t first_column, bool own,
             Terms<Real> row_terms, Terms<Real> column_terms, int threads) {
            require(tile.ndim() == 2 && threads >= 1 && row_terms.has_value() == column_terms.has_value(),
                    "TopK.add: arguments do not fit");
            const std::int64_t rows = tile.shape(0), columns = tile.shape(1);
            require(first_row >= 0 && first_row + rows <= self.rows() && first_column >= 0 &&
                        first_column + columns < kMaxRows && (!own || first_column + columns <= self.rows()),
                    "TopK.add: tile out of range");
            require(!row_terms || (row_terms->size() == self.rows() && column_terms->size() >= first_column + columns),
                    "TopK.add: terms do not fit");
            const typename TopK<Real>::Tile view{tile.data(),
                                                 first_row,
                                                 rows,
                                                 first_column,
                                                 columns,
                                                 row_terms ? row_terms->data() : nullptr,
                                                 row_terms ? column_terms->data() : nullptr};
            py::gil_scoped_release release;
            self.add_rows(view, own, threads);
            const std::int64_t mirrored = std::max(first_column, first_row + rows);
            if (own && mirrored < first_column + columns) self.add_columns(view, mirrored, threads);
          },
          py::arg("tile").noconvert(), py::arg("first_row"), py::arg("first_column"), py::arg("own"),
          py::arg("row_terms"), py::arg("column_terms"), py::arg("threads"))
      .def(
          "write",
          [](TopK<Real>& self, Array<Real> scores, Array<std::int64_t> indices, std::int64_t columns, bool own,
             int threads) {
            require(scores.ndim() == 2 && indices.ndim() == 2 && threads >= 1, "TopK.write: arguments do not fit");
            const std::int64_t skipped = own ? 1 : 0, stride = self.k() + skipped;
            require(scores.shape(0) == self.rows() && indices.shape(0) == self.rows() && scores.shape(1) == stride &&
                        indices.shape(1) == stride && stride <= columns && columns < kMaxRows,
                    "TopK.write: shapes do not fit");
            Real* values = scores.mutable_data();
            std::int64_t* places = indices.mutable_data();
            py::gil_scoped_release release;
            self.write(values + skipped, places + skipped, stride, columns, own, threads);
          },
          py::arg("scores").noconvert(), py::arg("indices").noconvert(), py::arg("columns"), py::arg("own"),
          py::arg("threads"));
}

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
void bind_jaccard(py::module_& m) {
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

template <typename Real>
void bind_dbscan(py::module_& m) {
  m.def(
      "dbscan_dense",
      [](Array<Real> distances, float eps, std::int64_t min_samples, Array<std::int64_t> labels, int threads) {
        require(distances.ndim() == 2 && distances.shape(0) == distances.shape(1) && threads >= 1 &&
                    labels.size() == distances.shape(0),
                "dbscan: shapes do not fit");
        std::int64_t* out = labels.mutable_data();
        py::gil_scoped_release release;
        dbscan_dense(distances.data(), labels.size(), eps, min_samples, out, threads);
      },
      py::arg("distances").noconvert(), py::arg("eps"), py::arg("min_samples"), py::arg("labels").noconvert(),
      py::arg("threads"));
  m.def(
      "dbscan_sparse",
      [](Array<std::int64_t> pointers, Array<std::int64_t> columns, Array<Real> distances, float eps,
         std::int64_t min_samples, Array<std::int64_t> labels, int threads) {
        const std::int64_t rows = labels.size(), stored = distances.size();
        require(pointers.size() == rows + 1 && columns.size() == stored && threads >= 1, "dbscan: shapes do not fit");
        require(pointers.data()[0] == 0 && pointers.data()[rows] == stored, "dbscan: row pointers out of range");
        for (std::int64_t i = 0; i < rows; ++i)
          require(pointers.data()[i] <= pointers.data()[i + 1], "dbscan: row pointers descend");
        for (std::int64_t n = 0; n < stored; ++n)
          require(columns.data()[n] >= 0 && columns.data()[n] < rows, "dbscan: column out of range");
        std::int64_t* out = labels.mutable_data();
        py::gil_scoped_release release;
        dbscan_sparse(pointers.data(), columns.data(), distances.data(), rows, eps, min_samples, out, threads);
      },
      py::arg("pointers").noconvert(), py::arg("columns").noconvert(), py::arg("distances").noconvert(),
      py::arg("eps"), py::arg("min_samples"), py::arg("labels").noconvert(), py::arg("threads"));
}

template <typename Real>
void bind_centroids(py::module_& m) {
  m.def(
      "cluster_centroids",
      [](Array<Real> features, Array<std::int64_t> labels, Array<Real> centroids, int threads) {
        require(features.ndim() == 2 && centroids.ndim() == 2 && labels.size() == features.shape(0) &&
                    centroids.shape(1) == features.shape(1) && threads >= 1,
                "cluster_centroids: shapes do not fit");
        for (py::ssize_t i = 0; i < labels.size(); ++i)
          require(labels.data()[i] < centroids.shape(0), "cluster_centroids: label out of range");
        Real* out = centroids.mutable_data();
        py::gil_scoped_release release;
        cluster_centroids(features.data(), labels.data(), features.shape(0), features.shape(1), centroids.shape(0), out,
                          threads);
      },
      py::arg("features").noconvert(), py::arg("labels").noconvert(), py::arg("centroids").noconvert(),
      py::arg("threads"));
}

}  // namespace

void bind_clustering(py::module_& m) {
  bind_topk<float>(m, "TopKFloat32");
  bind_topk<double>(m, "TopKFloat64");
  bind_jaccard<float>(m);
  bind_jaccard<double>(m);
  bind_dbscan<float>(m);
  bind_dbscan<double>(m);
  bind_centroids<float>(m);
  bind_centroids<double>(m);
}

}  // namespace salcr
