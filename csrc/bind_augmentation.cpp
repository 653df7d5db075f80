// augment of salcr._C.

#include <pybind11/stl.h>

#include <optional>

#include "augmentation.hpp"
#include "binding.hpp"

namespace salcr {
namespace {

template <typename Real, typename Stored>
void bind_augmentation(py::module_& m) {
  using Table = std::optional<Array<float>>;
  m.def(
      "augment",
      [](Array<std::uint8_t> images, Table draws, std::optional<Array<std::int64_t>> rows, Table scalings,
         Array<Stored> views, int threads) {
        require(images.ndim() == 4 && views.ndim() == 4 && images.shape(3) == 3 && views.shape(3) == 3 &&
                    views.shape(1) == images.shape(1) && views.shape(2) == images.shape(2) && threads >= 1,
                "augment: shapes do not fit");
        Augmentation all{images.data(), images.shape(1), images.shape(2), views.shape(0), 0, nullptr, nullptr, nullptr,
                         threads};
        std::int64_t chains = 0;
        if (scalings) {
          require(scalings->ndim() == 3 && scalings->shape(2) == 7 && draws, "augment: scalings do not fit");
          all.scalings = reinterpret_cast<const Scaling*>(scalings->data());
          chains = scalings->shape(0), all.chain = scalings->shape(1);
        }
        if (draws) {
          require(draws->ndim() == 2 && draws->shape(0) == all.views && draws->shape(1) == 17, "augment: draws do not fit");
          all.draws = reinterpret_cast<const Draws*>(draws->data());
          for (std::int64_t b = 0; b < all.views; ++b)
            require(all.draws[b].scaling < static_cast<float>(chains), "augment: scaling out of range");
        }
        if (rows) {
          require(rows->ndim() == 1 && rows->shape(0) == all.views, "augment: rows do not fit");
          all.rows = rows->data();
          for (std::int64_t b = 0; b < all.views; ++b)
            require(all.rows[b] >= 0 && all.rows[b] < images.shape(0), "augment: row out of range");
        } else {
          require(images.shape(0) == all.views, "augment: as many views as images, or rows");
        }
        Real* out = reinterpret_cast<Real*>(views.mutable_data());
        py::gil_scoped_release release;
        augment(all, out);
      },
      py::arg("images").noconvert(), py::arg("draws").noconvert().none(true), py::arg("rows").noconvert().none(true),
      py::arg("scalings").noconvert().none(true), py::arg("views").noconvert(), py::arg("threads"));
}

}  // namespace

void bind_augmentation(py::module_& m) {
  bind_augmentation<float, float>(m);
  bind_augmentation<std::uint16_t, std::int16_t>(m);
}

}  // namespace salcr
