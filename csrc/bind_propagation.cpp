// Feature propagation: bindings of the graphs' rows and of the means over them.

#include <memory>

#include "binding.hpp"
#include "propagation.hpp"

namespace salcr {
namespace {

template <typename Real>
typename GraphRows<Real>::Tile view(const Array<Real>& tile, std::int64_t first_row, std::int64_t first_column) {
  require(tile.ndim() == 2 && first_row >= 0 && first_column >= 0, "GraphRows: wrong tile");
  return {tile.data(), first_row, tile.shape(0), first_column, tile.shape(1)};
}

template <typename Real>
void bind_propagation(py::module_& m, const char* name) {
  py::class_<GraphRows<Real>>(m, name)
      .def(py::init([](std::int64_t rows, std::int64_t columns, std::int64_t k) {
             require(rows >= 1 && columns >= 1 && columns < kMaxRows && k >= 1,
                     "GraphRows: rows, columns or k out of range");
             return std::make_unique<GraphRows<Real>>(rows, columns, k);
           }),
           py::arg("rows"), py::arg("columns"), py::arg("k"))
      .def(
          "add_rows",
          [](GraphRows<Real>& self, Array<Real> tile, std::int64_t first_row, std::int64_t first_column, int threads) {
            const auto shown = view(tile, first_row, first_column);
            require(first_row + shown.rows <= self.rows() && first_column + shown.columns <= self.columns(),
                    "GraphRows.add_rows: tile out of range");
            py::gil_scoped_release release;
            self.add_rows(shown, threads);
          },
          py::arg("tile").noconvert(), py::arg("first_row"), py::arg("first_column"), py::arg("threads"))
      .def(
          "add_columns",
          [](GraphRows<Real>& self, Array<Real> tile, std::int64_t first_row, std::int64_t first_column,
             std::int64_t begin, int threads) {
            const auto shown = view(tile, first_row, first_column);
            require(first_row + shown.rows <= self.columns() && first_column + shown.columns <= self.rows() &&
                        begin >= first_column && threads >= 1,
                    "GraphRows.add_columns: tile out of range");
            py::gil_scoped_release release;
            if (begin < first_column + shown.columns) self.add_columns(shown, begin, threads);
          },
          py::arg("tile").noconvert(), py::arg("first_row"), py::arg("first_column"), py::arg("begin"),
          py::arg("threads"))
      .def("finish", &GraphRows<Real>::finish, py::arg("threads"), py::call_guard<py::gil_scoped_release>());
  m.def(
      "propagate",
      [](Array<Real> own, Array<Real> other, const GraphRows<Real>& own_graph, const GraphRows<Real>& other_graph,
         Array<Real> out, int threads) {
        require(own.ndim() == 2 && other.ndim() == 2 && out.ndim() == 2 && threads >= 1,
                "propagate: wrong number of axes");
        const std::int64_t rows = own.shape(0), width = own.shape(1);
        require(other.shape(1) == width && out.shape(0) == rows && out.shape(1) == width && own_graph.rows() == rows &&
                    own_graph.columns() == rows && other_graph.rows() == rows &&
                    other_graph.columns() == other.shape(0),
                "propagate: shapes do not fit");
        Real* data = out.mutable_data();
        std::vector<std::int64_t> given_up;
        {
          py::gil_scoped_release release;
          propagate(own.data(), other.data(), width, own_graph, other_graph, data, threads);
          for (std::int64_t row = 0; row < rows; ++row)
            if (own_graph.count(row) < 0 || other_graph.count(row) < 0) given_up.push_back(row);
        }
        return as_array(std::move(given_up));
      },
      py::arg("own").noconvert(), py::arg("other").noconvert(), py::arg("own_graph"), py::arg("other_graph"),
      py::arg("out").noconvert(), py::arg("threads"));
}

}  // namespace

void bind_propagation(py::module_& m) {
  bind_propagation<float>(m, "GraphRowsFloat32");
  bind_propagation<double>(m, "GraphRowsFloat64");
}

}  // namespace salcr
