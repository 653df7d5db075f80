// jaccard_graph and jaccard_distance of salcr._C, and the steps of the former for some rows of many.

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>

#include "binding.hpp"
#include "jaccard.hpp"
#include "jaccard_encodings.hpp"

namespace salcr {
namespace {

using Bytes = Array<std::uint8_t>;  // entries of sparse rows, as they lie in memory: only functions of this file read them

void check_ranks(const Array<std::int32_t>& ranks, std::int64_t rows) {
  for (py::ssize_t n = 0; n < ranks.size(); ++n)
    require(ranks.data()[n] >= 0 && ranks.data()[n] < rows, "jaccard: rank out of range");
}

template <typename Real>
CsrRows<Real> rows_of(const Array<std::int64_t>& pointers, Bytes& entries, std::int64_t columns) {
  const std::int64_t rows = pointers.size() - 1;
  require(rows >= 0 && pointers.data()[0] == 0 &&
              pointers.data()[rows] * static_cast<py::ssize_t>(sizeof(Entry<Real>)) == entries.size(),
          "jaccard: pointers do not fit the entries");
  for (std::int64_t i = 0; i < rows; ++i)
    require(pointers.data()[i] <= pointers.data()[i + 1], "jaccard: pointers descend");
  auto* first = reinterpret_cast<Entry<Real>*>(entries.mutable_data());
  for (std::int64_t n = 0; n < pointers.data()[rows]; ++n)
    require(first[n].column >= 0 && first[n].column < columns, "jaccard: column out of range");
  return {pointers.data(), first, rows};
}

template <typename Real>
py::tuple as_arrays(SparseRows<Real>&& rows) {
  std::vector<std::int64_t> pointers{0};
  for (std::int64_t i = 0; i < rows.rows(); ++i) pointers.push_back(pointers.back() + rows[i].count);
  Bytes bytes(static_cast<py::ssize_t>(pointers.back() * sizeof(Entry<Real>)));
  auto* out = reinterpret_cast<Entry<Real>*>(bytes.mutable_data());
  for (std::int64_t i = 0; i < rows.rows(); ++i) out = std::copy(rows[i].begin(), rows[i].end(), out);
  return py::make_tuple(as_array(std::move(pointers)), bytes);
}

// Without features, for the steps that read none.
template <typename Real>
Neighbours<Real> lists(const Array<std::int32_t>& ranks, const Array<Real>& products, Range range, std::int64_t half,
                       int threads) {
  require(ranks.ndim() == 2 && products.ndim() == 2, "jaccard: wrong number of axes");
  const std::int64_t rows = ranks.shape(0), k = ranks.shape(1);
  require(products.shape(0) == rows && products.shape(1) == k && rows < kMaxRows, "jaccard: shapes do not fit");
  require(half >= 1 && half <= k && threads >= 1, "jaccard: half out of range");
  require(range.first >= 0 && range.first <= range.last && range.last <= rows, "jaccard: rows out of range");
  check_ranks(ranks, rows);
  return {ranks.data(), products.data(), nullptr, rows, k, 0};
}

template <typename Real>
Neighbours<Real> neighbours(const Array<std::int32_t>& ranks, const Array<Real>& products, const Array<Real>& features,
                            const std::optional<Array<Real>>& factors, std::int64_t half, std::int64_t k2, int threads) {
  require(ranks.ndim() == 2 && products.ndim() == 2 && features.ndim() == 2, "jaccard: wrong number of axes");
  const std::int64_t rows = ranks.shape(0), k = ranks.shape(1);
  require(products.shape(0) == rows && products.shape(1) == k && features.shape(0) == rows && rows < kMaxRows,
          "jaccard: shapes do not fit");
  require(half >= 1 && half <= k && k2 >= 1 && k2 <= k && threads >= 1, "jaccard: half or k2 out of range");
  require(!factors || (factors->ndim() == 1 && factors->shape(0) == rows), "jaccard: factors do not fit");
  check_ranks(ranks, rows);
  const Real* of_rows = factors ? factors->data() : nullptr;
  return {ranks.data(), products.data(), features.data(), rows, k, features.shape(1), of_rows};
}

// The steps of jaccard_graph for some rows of many; salcr/ops/_sharded.py puts them together.
template <typename Real>
void bind_steps(py::module_& m) {
  m.def(
      "jaccard_unlisted_pairs",
      [](Array<std::int32_t> ranks, Array<Real> products, std::int64_t first, std::int64_t last, std::int64_t half,
         int threads) {
        const Range range{first, last};
        const auto near = lists(ranks, products, range, half, threads);
        Pairs pairs;
        {
          py::gil_scoped_release release;
          pairs = unlisted_pairs(near, range, half, threads);
        }
        return py::make_tuple(as_array(std::move(pairs.pointers)), as_array(std::move(pairs.others)));
      },
      py::arg("ranks").noconvert(), py::arg("products").noconvert(), py::arg("first"), py::arg("last"), py::arg("half"),
      py::arg("threads"));
  m.def(
      "jaccard_weighted_rows",
      [](Array<std::int32_t> ranks, Array<Real> products, std::int64_t first, std::int64_t last, std::int64_t half,
         Array<std::int64_t> pair_pointers, Array<Real> pair_products, int threads) {
        const Range range{first, last};
        const auto near = lists(ranks, products, range, half, threads);
        require(pair_pointers.size() == range.count() + 1 && pair_pointers.data()[0] == 0 &&
                    pair_pointers.data()[range.count()] == pair_products.size(),
                "jaccard: pairs do not fit");
        for (std::int64_t n = 0; n < range.count(); ++n)
          require(pair_pointers.data()[n] <= pair_pointers.data()[n + 1], "jaccard: pointers descend");
        SparseRows<Real> rows(0);
        {
          py::gil_scoped_release release;
          rows = weighted_rows(near, range, half, pair_pointers.data(), pair_products.data(), threads);
        }
        return as_arrays(std::move(rows));
      },
      py::arg("ranks").noconvert(), py::arg("products").noconvert(), py::arg("first"), py::arg("last"), py::arg("half"),
      py::arg("pair_pointers").noconvert(), py::arg("pair_products").noconvert(), py::arg("threads"));
  m.def(
      "row_cosines",
      [](Array<Real> left, Array<Real> right, int threads) {
        require(left.ndim() == 2 && right.ndim() == 2 && left.shape(0) == right.shape(0) &&
                    left.shape(1) == right.shape(1) && threads >= 1,
                "row_cosines: shapes do not fit");
        Array<Real> out(left.shape(0));
        Real* cosines = out.mutable_data();
        {
          py::gil_scoped_release release;
          row_cosines(left.data(), right.data(), left.shape(0), left.shape(1), cosines, threads);
        }
        return out;
      },
      py::arg("left").noconvert(), py::arg("right").noconvert(), py::arg("threads"));
}

// Of sparse rows of which the entries are bytes; `Real` shows in the name, since it does in no array.
template <typename Real>
void bind_rows(py::module_& m, const std::string& name) {
  m.def(
      ("jaccard_averaged_rows_" + name).c_str(),
      [](Array<std::int32_t> places, Array<std::int64_t> pointers, Bytes entries, std::int64_t columns, int threads) {
        const auto encodings = rows_of<Real>(pointers, entries, columns);
        require(places.ndim() == 2 && places.shape(1) >= 1 && threads >= 1, "jaccard: shapes do not fit");
        check_ranks(places, encodings.rows());
        SparseRows<Real> rows(0);
        {
          py::gil_scoped_release release;
          rows = averaged_rows(places.data(), places.shape(0), places.shape(1), encodings, columns, threads);
        }
        return as_arrays(std::move(rows));
      },
      py::arg("places").noconvert(), py::arg("pointers").noconvert(), py::arg("entries").noconvert(),
      py::arg("columns"), py::arg("threads"));
  m.def(
      ("jaccard_rarest_first_" + name).c_str(),
      [](Array<std::int64_t> pointers, Bytes entries, Array<std::int32_t> uses, int threads) {
        const auto rows = rows_of<Real>(pointers, entries, uses.size());
        require(threads >= 1, "jaccard: threads must be positive");
        py::gil_scoped_release release;
        rarest_first(rows, uses.data(), uses.size(), threads);
      },
      py::arg("pointers").noconvert(), py::arg("entries").noconvert(), py::arg("uses").noconvert(), py::arg("threads"));
  m.def(
      ("jaccard_near_pairs_" + name).c_str(),
      [](Array<std::int64_t> left_pointers, Bytes left_entries, Array<std::int64_t> right_pointers, Bytes right_entries,
         std::int64_t offset, std::int64_t columns, float max_distance, int threads) {
        const auto left = rows_of<Real>(left_pointers, left_entries, columns);
        const auto right = rows_of<Real>(right_pointers, right_entries, columns);
        require(max_distance >= 0 && max_distance < 1 && offset >= 0 && threads >= 1,
                "jaccard_near_pairs: arguments out of range");
        NearPairs pairs;
        {
          py::gil_scoped_release release;
          pairs = near_pairs(left, right, offset, columns, max_distance, threads);
        }
        return py::make_tuple(as_array(std::move(pairs.left)), as_array(std::move(pairs.right)));
      },
      py::arg("left_pointers").noconvert(), py::arg("left_entries").noconvert(), py::arg("right_pointers").noconvert(),
      py::arg("right_entries").noconvert(), py::arg("offset"), py::arg("columns"), py::arg("max_distance"),
      py::arg("threads"));
}

template <typename Real>
void bind_jaccard(py::module_& m) {
  m.def(
      "jaccard_graph",
      [](Array<std::int32_t> ranks, Array<Real> products, Array<Real> features, std::optional<Array<Real>> factors,
         std::int64_t half, std::int64_t k2, float max_distance, int threads) {
        const auto near = neighbours(ranks, products, features, factors, half, k2, threads);
        require(max_distance >= 0 && max_distance < 1, "jaccard_graph: max_distance out of range");
        Graph graph;
        {
          py::gil_scoped_release release;
          graph = jaccard_graph(encode(near, half, k2, threads), max_distance, threads);
        }
        return py::make_tuple(as_array(std::move(graph.pointers)), as_array(std::move(graph.columns)),
                              as_array(std::move(graph.distances)));
      },
      py::arg("ranks").noconvert(), py::arg("products").noconvert(), py::arg("features").noconvert(),
      py::arg("factors").noconvert(), py::arg("half"), py::arg("k2"), py::arg("max_distance"), py::arg("threads"));
  m.def(
      "jaccard_distance",
      [](Array<std::int32_t> ranks, Array<Real> products, Array<Real> features, std::optional<Array<Real>> factors,
         std::int64_t half, std::int64_t k2, Array<float> distances, int threads) {
        const auto near = neighbours(ranks, products, features, factors, half, k2, threads);
        require(distances.ndim() == 2 && distances.shape(0) == near.rows && distances.shape(1) == near.rows,
                "jaccard_distance: shapes do not fit");
        float* data = distances.mutable_data();
        py::gil_scoped_release release;
        jaccard_distance(encode(near, half, k2, threads), data, threads);
      },
      py::arg("ranks").noconvert(), py::arg("products").noconvert(), py::arg("features").noconvert(),
      py::arg("factors").noconvert(), py::arg("half"), py::arg("k2"), py::arg("distances").noconvert(),
      py::arg("threads"));
}

}  // namespace

void bind_jaccard(py::module_& m) {
  bind_jaccard<float>(m);
  bind_jaccard<double>(m);
  bind_steps<float>(m);
  bind_steps<double>(m);
  bind_rows<float>(m, "float32");
  bind_rows<double>(m, "float64");
}

}  // namespace salcr
