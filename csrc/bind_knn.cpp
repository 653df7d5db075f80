// The running top-k of salcr._C: the neighbour search's selection over tiles of products.

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "binding.hpp"
#include "knn.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kMaxRows = std::int64_t{1} << 31;  // indices are kept in 32 bits

template <typename Real>
using Terms = std::optional<Array<Real>>;

template <typename Real>
void bind(py::module_& m, const char* name) {
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

}  // namespace

void bind_knn(py::module_& m) {
  bind<float>(m, "TopKFloat32");
  bind<double>(m, "TopKFloat64");
}

}  // namespace salcr
