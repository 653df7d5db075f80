// dbscan_dense and dbscan_sparse of salcr._C.

#include "binding.hpp"
#include "dbscan.hpp"

namespace salcr {
namespace {

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

}  // namespace

void bind_dbscan(py::module_& m) {
  bind_dbscan<float>(m);
  bind_dbscan<double>(m);
}

}  // namespace salcr
