// The neighbour searches of salcr._C: the running top-k over tiles of products, and those that screen before they score.

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "binding.hpp"
#include "knn.hpp"
#include "knn_codes.hpp"
#include "knn_pairs.hpp"
#include "knn_rows.hpp"

namespace salcr {
namespace {

template <typename Real>
using Terms = std::optional<Array<Real>>;

template <typename Real>
void bind_knn(py::module_& m, const char* name) {
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
          [](TopK<Real>& self, Array<Real> scores, Array<std::int64_t> indices, bool own, int threads) {
            require(scores.ndim() == 2 && indices.ndim() == 2 && threads >= 1, "TopK.write: arguments do not fit");
            const std::int64_t skipped = own ? 1 : 0, stride = self.k() + skipped;
            require(scores.shape(0) == self.rows() && indices.shape(0) == self.rows() && scores.shape(1) == stride &&
                        indices.shape(1) == stride,
                    "TopK.write: shapes do not fit");
            Real* values = scores.mutable_data();
            std::int64_t* places = indices.mutable_data();
            py::gil_scoped_release release;
            self.write(values + skipped, places + skipped, stride, threads);
          },
          py::arg("scores").noconvert(), py::arg("indices").noconvert(), py::arg("own"), py::arg("threads"));
}

// `stored` is the NumPy dtype that carries the rows: float32, or uint16 for the bits of float16. Its rows may be apart.
template <typename Stored>
std::int64_t nearest(const Array<float>& queries, const py::array& database, Array<float>& scores,
                     Array<std::int64_t>& indices, const std::string& screen, int threads) {
  const py::ssize_t size = sizeof(Stored);
  const StoredRows<Stored> rows{static_cast<const Stored*>(database.data()), database.shape(0), database.shape(1),
                                database.strides(0) / size};
  require(rows.width == queries.shape(1) && rows.width >= 1 && rows.count >= 1 && rows.count < kMaxRows &&
              database.strides(0) % size == 0 && rows.stride >= rows.width && database.strides(1) == size,
          "nearest_rows: database does not fit");
  const std::int64_t count = queries.shape(0), k = scores.shape(1);
  require(indices.shape(0) == count && scores.shape(0) == count && indices.shape(1) == k && count >= 1 && k >= 1 &&
              k <= rows.count && threads >= 1,
          "nearest_rows: shapes do not fit");
  require(screen == "fastest" || screen == "bytes" || screen == "floats", "nearest_rows: screen is not known");
  const Screen chosen = screen == "bytes" ? Screen::kBytes : screen == "floats" ? Screen::kFloats : Screen::kFastest;
  require(can_screen(chosen, rows.width), "nearest_rows: this processor cannot screen in bytes");
  const float* const asked = queries.data();
  float* const values = scores.mutable_data();
  std::int64_t* const places = indices.mutable_data();
  py::gil_scoped_release release;
  return nearest_rows(asked, count, rows, k, values, places, chosen, threads);
}

using Codes = Array<std::uint8_t>;

// The rows of a matrix of float16, whose bits NumPy carries as uint16, and codes of as many.
HalfRows coded_rows(const py::array& rows, const Codes& codes) {
  require(rows.ndim() == 2 && codes.ndim() == 2 && py::isinstance<py::array_t<std::uint16_t>>(rows),
          "codes: arguments do not fit");
  const HalfRows half{static_cast<const std::uint16_t*>(rows.data()), rows.shape(0), rows.shape(1), rows.strides(0) / 2};
  require(half.width >= 1 && half.width <= kWidestCode && half.count >= 1 && half.count < kMaxRows &&
              rows.strides(0) % 2 == 0 && half.stride >= half.width && rows.strides(1) == 2,
          "codes: rows do not fit");
  require(codes.shape(0) == half.count && codes.shape(1) == code_bytes(half.width), "codes: shapes do not fit");
  return half;
}

}  // namespace

void bind_knn(py::module_& m) {
  bind_knn<float>(m, "TopKFloat32");
  bind_knn<double>(m, "TopKFloat64");
  m.def(
      "nearest_rows",
      [](Array<float> queries, py::array database, Array<float> scores, Array<std::int64_t> indices,
         const std::string& screen, int threads) {
        require(queries.ndim() == 2 && database.ndim() == 2 && scores.ndim() == 2 && indices.ndim() == 2,
                "nearest_rows: arguments do not fit");
        if (py::isinstance<py::array_t<float>>(database))
          return nearest<float>(queries, database, scores, indices, screen, threads);
        require(py::isinstance<py::array_t<std::uint16_t>>(database), "nearest_rows: database is float32 or uint16");
        return nearest<std::uint16_t>(queries, database, scores, indices, screen, threads);
      },
      py::arg("queries").noconvert(), py::arg("database"), py::arg("scores").noconvert(),
      py::arg("indices").noconvert(), py::arg("screen"), py::arg("threads"));
  m.def("code_bytes", &code_bytes, py::arg("width"));
  m.def(
      "round_rows",
      [](py::array rows, Codes codes, int threads) {
        const HalfRows half = coded_rows(rows, codes);
        require(threads >= 1, "round_rows: threads must be positive");
        std::uint8_t* const out = codes.mutable_data();
        py::gil_scoped_release release;
        return round_rows(half, out, threads);
      },
      py::arg("rows"), py::arg("codes").noconvert(), py::arg("threads"));
  m.def(
      "nearest_coded",
      [](Array<float> queries, py::array database, Codes codes, Array<float> scores, Array<std::int64_t> indices,
         const std::string& screen, int threads) {
        const HalfRows half = coded_rows(database, codes);
        require(queries.ndim() == 2 && scores.ndim() == 2 && indices.ndim() == 2, "nearest_coded: arguments do not fit");
        const std::int64_t count = queries.shape(0), k = scores.shape(1);
        require(queries.shape(1) == half.width && indices.shape(0) == count && scores.shape(0) == count &&
                    indices.shape(1) == k && count >= 1 && count < kMaxRows && k >= 1 && k <= half.count && threads >= 1,
                "nearest_coded: shapes do not fit");
        require(screen == "fastest" || screen == "bytes" || screen == "floats", "nearest_coded: screen is not known");
        require(screen != "bytes" || can_screen(Screen::kBytes, half.width),
                "nearest_coded: this processor cannot screen in bytes");
        const Products products = screen == "floats" ? Products::kAny : Products::kFastest;
        const float* const asked = queries.data();
        const std::uint8_t* const bytes = codes.data();
        float* const values = scores.mutable_data();
        std::int64_t* const places = indices.mutable_data();
        py::gil_scoped_release release;
        return nearest_coded(asked, count, half, bytes, k, values, places, products, threads);
      },
      py::arg("queries").noconvert(), py::arg("database"), py::arg("codes").noconvert(),
      py::arg("scores").noconvert(), py::arg("indices").noconvert(), py::arg("screen"), py::arg("threads"));
  m.def("screens_in_bytes", [](std::int64_t width) { return can_screen(Screen::kBytes, width); }, py::arg("width"));
  m.def(
      "nearest_pairs",
      [](Array<float> rows, std::optional<Array<float>> columns, Array<float> scores, Array<std::int64_t> indices,
         std::int64_t split, std::optional<Array<float>> floors, double limit, int threads) {
        const bool own = !columns.has_value();
        const Array<float>& others = own ? rows : *columns;
        require(rows.ndim() == 2 && others.ndim() == 2 && scores.ndim() == 2 && indices.ndim() == 2 && threads >= 1,
                "nearest_pairs: arguments do not fit");
        const std::int64_t count = rows.shape(0), size = others.shape(0), width = rows.shape(1), stride = scores.shape(1);
        require(others.shape(1) == width && width >= 1 && count >= 1 && size >= 1 && std::max(count, size) < kMaxRows &&
                    scores.shape(0) == count && indices.shape(0) == count && indices.shape(1) == stride &&
                    stride > (own && split == 0 ? 1 : 0) && stride <= size,
                "nearest_pairs: shapes do not fit");
        require(split == 0 || (own && split >= stride && size - split >= stride), "nearest_pairs: a side has too few rows");
        require(!floors || (floors->ndim() == 1 && floors->shape(0) == count), "nearest_pairs: floors do not fit");
        require(can_screen(Screen::kBytes, width), "nearest_pairs: this processor cannot screen in bytes");
        const FloatRows asked{rows.data(), count}, among{others.data(), size};
        const int itself = own && split == 0;
        float* const values = scores.mutable_data() + itself;
        const float* const least = floors ? floors->data() : nullptr;
        std::int64_t* const places = indices.mutable_data() + itself;
        py::gil_scoped_release release;
        return nearest_pairs(asked, among, width, stride - itself, own, split, least, limit, values, places, stride, threads);
      },
      py::arg("rows").noconvert(), py::arg("columns").noconvert(), py::arg("scores").noconvert(),
      py::arg("indices").noconvert(), py::arg("split"), py::arg("floors").noconvert(), py::arg("limit"), py::arg("threads"));
}

}  // namespace salcr
