// cluster_centroids of salcr._C.

#include "binding.hpp"
#include "centroids.hpp"

namespace salcr {
namespace {

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

void bind_centroids(py::module_& m) {
  bind_centroids<float>(m);
  bind_centroids<double>(m);
}

}  // namespace salcr
