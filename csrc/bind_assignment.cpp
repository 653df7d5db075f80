// solve_assignment and linear_assignment of salcr._C: a batch of problems, in parallel.

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "assignment.hpp"
#include "binding.hpp"
#include "parallel.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kQuick = 64 * 64;  // so many costs are dealt with before another thread would have the interpreter

// A matrix [rows, cols] or a batch [problems, rows, cols] of any strides, counted in elements.
template <typename Real>
struct Batch {
  const Real* data;
  std::int64_t problems, rows, cols, problem_stride, row_stride, col_stride;
  double sign;

  Batch(const py::array& costs, bool maximize) : sign(maximize ? -1.0 : 1.0) {
    data = static_cast<const Real*>(costs.data());
    constexpr auto kSize = static_cast<py::ssize_t>(sizeof(Real));
    const auto at = static_cast<int>(costs.ndim()) - 2;
    problems = at > 0 ? costs.shape(0) : 1, rows = costs.shape(at), cols = costs.shape(at + 1);
    problem_stride = at > 0 ? costs.strides(0) / kSize : 0;
    row_stride = costs.strides(at) / kSize, col_stride = costs.strides(at + 1) / kSize;
  }

  void transpose() {
    std::swap(rows, cols);
    std::swap(row_stride, col_stride);
  }
};

// One problem with contiguous rows: in place, or a copy that this owns.
template <typename Real>
class Problem {
 public:
  Problem(const Batch<Real>& batch, std::int64_t p) {
    const Real* const data = batch.data + p * batch.problem_stride;
    if (batch.col_stride == 1 || batch.cols == 1) {
      costs = {data, batch.rows, batch.cols, batch.row_stride, batch.sign};
      return;
    }
    copy_.reset(new Real[batch.rows * batch.cols]);
    constexpr std::int64_t kTile = 32;  // of which both sides stay in L1
    for (std::int64_t i0 = 0; i0 < batch.rows; i0 += kTile)
      for (std::int64_t j0 = 0; j0 < batch.cols; j0 += kTile)
        for (std::int64_t i = i0; i < std::min(i0 + kTile, batch.rows); ++i)
          for (std::int64_t j = j0; j < std::min(j0 + kTile, batch.cols); ++j)
            copy_[i * batch.cols + j] = data[i * batch.row_stride + j * batch.col_stride];
    costs = {copy_.get(), batch.rows, batch.cols, batch.cols, batch.sign};
  }

  Costs<Real> costs;

 private:
  std::unique_ptr<Real[]> copy_;
};

// [count], or [problems, count], made by NumPy itself: on pybind11's way two arrays take a tenth of a small problem's time.
template <typename T>
Array<T> like_batch(bool batched, std::int64_t problems, std::int64_t count) {
  const auto& numpy = py::detail::npy_api::get();
  const Py_intptr_t shape[] = {static_cast<Py_intptr_t>(problems), static_cast<Py_intptr_t>(count)};
  PyObject* const array = numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, py::dtype::of<T>().release().ptr(), batched ? 2 : 1,
                                                      batched ? shape : shape + 1, nullptr, nullptr, 0, nullptr);
  if (array == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<Array<T>>(array);
}

// Calls solve(p) for all problems, of so many costs each; whether all were solved.
template <typename Solve>
bool all_solved(std::int64_t problems, std::int64_t costs, int threads, Solve&& solve) {
  if (problems == 1 && costs <= kQuick) return solve(0);
  py::gil_scoped_release release;
  if (problems == 1) return solve(0);
  std::atomic<bool> solved = true;
  parallel_chunks(problems, 1, threads, [&](std::int64_t p, std::int64_t, int) {
    if (!solve(p)) solved = false;
  });
  return solved;
}

// Whether it has two or three axes, none of them empty, rows and columns not too many, and elements where such can be.
bool is_batch(const py::array& costs) {
  const auto axes = static_cast<int>(costs.ndim());
  if (axes != 2 && axes != 3) return false;
  for (int axis = 0; axis < axes; ++axis)
    if (costs.shape(axis) < 1 || costs.strides(axis) % costs.itemsize() != 0) return false;
  return costs.shape(axes - 2) < INT32_MAX && costs.shape(axes - 1) < INT32_MAX;
}

// body(Real()) for the float32 or float64 of these costs; else, or if they are no batch, `other`.
template <typename Result, typename Body>
Result of_type(const py::array& costs, Result other, Body&& body) {
  const py::dtype type = costs.dtype();
  const bool is_double = type.num() == py::dtype::num_of<double>(), is_float = type.num() == py::dtype::num_of<float>();
  if (!(is_double || is_float) || type.byteorder() != '=' || !is_batch(costs)) return other;
  return is_double ? body(double()) : body(float());
}

template <typename Real>
bool solve_all(const Batch<Real>& batch, std::int64_t capacity, Array<std::int64_t>& partners, int threads) {
  const std::int64_t rows = batch.rows, cols = batch.cols;
  require(partners.ndim() == 2 && partners.shape(0) == batch.problems && partners.shape(1) == rows,
          "solve_assignment: shapes do not fit");
  require(capacity >= 1 && capacity < INT32_MAX && rows <= capacity * cols && threads >= 1,
          "solve_assignment: too many rows, or no threads");
  std::int64_t* const partner = partners.mutable_data();
  return all_solved(batch.problems, rows * cols, threads, [&](std::int64_t p) {
    return solve_assignment(Problem<Real>(batch, p).costs, capacity, partner + p * rows, nullptr, nullptr);
  });
}

// (rows, cols), with duals also theirs, each with the axis of the batch if it is one; None if a problem has no solution.
template <typename Real>
py::object assign_all(Batch<Real> batch, bool batched, bool return_duals, int threads) {
  const std::int64_t problems = batch.problems, rows = batch.rows, cols = batch.cols, size = std::min(rows, cols);
  require(threads >= 1, "linear_assignment: no threads");
  auto first = like_batch<std::int64_t>(batched, problems, size), second = like_batch<std::int64_t>(batched, problems, size);
  std::optional<Array<double>> row_duals, col_duals;
  if (return_duals) {
    row_duals = like_batch<double>(batched, problems, rows);
    col_duals = like_batch<double>(batched, problems, cols);
  }
  std::int64_t *const all_ours = first.mutable_data(), *const all_theirs = second.mutable_data();
  double* const u = row_duals ? row_duals->mutable_data() : nullptr;
  double* const v = col_duals ? col_duals->mutable_data() : nullptr;
  const bool turned = rows > cols || (rows == cols && batch.col_stride != 1);
  if (turned) batch.transpose();
  const bool solved = all_solved(problems, rows * cols, threads, [&](std::int64_t p) {
    double* const row_dual = return_duals ? u + p * rows : nullptr;
    double* const col_dual = return_duals ? v + p * cols : nullptr;
    const Problem<Real> problem(batch, p);
    std::int64_t *const ours = all_ours + p * size, *const theirs = all_theirs + p * size;
    if (!turned) {
      if (!solve_assignment(problem.costs, 1, theirs, row_dual, col_dual)) return false;
      for (std::int64_t i = 0; i < size; ++i) ours[i] = i;
    } else {
      if (!solve_assignment(problem.costs, 1, ours, col_dual, row_dual)) return false;
      std::vector<std::int64_t> col_of(rows, -1);
      for (std::int64_t j = 0; j < size; ++j) col_of[ours[j]] = j;
      for (std::int64_t i = 0, n = 0; i < rows; ++i)
        if (col_of[i] >= 0) ours[n] = i, theirs[n++] = col_of[i];
    }
    return true;
  });
  if (!solved) return py::none();
  if (!return_duals) return py::make_tuple(std::move(first), std::move(second));
  if (batch.sign < 0)
    for (const auto& [duals, length] : {std::pair(u, problems * rows), std::pair(v, problems * cols)})
      std::transform(duals, duals + length, duals, std::negate<>());
  return py::make_tuple(std::move(first), std::move(second), *std::move(row_duals), *std::move(col_duals));
}

}  // namespace

void bind_assignment(py::module_& m) {
  m.def(
      "solve_assignment",
      [](const py::array& costs, bool maximize, std::int64_t capacity, Array<std::int64_t> partners, int threads) {
        return of_type(costs, false, [&](auto real) {
          return solve_all(Batch<decltype(real)>(costs, maximize), capacity, partners, threads);
        });
      },
      py::arg("costs").noconvert(), py::arg("maximize"), py::arg("capacity"), py::arg("partners").noconvert(),
      py::arg("threads"));
  m.def(
      "linear_assignment",
      [](const py::array& costs, bool maximize, bool return_duals, int threads) {
        return of_type(costs, py::object(py::none()), [&](auto real) {
          return assign_all(Batch<decltype(real)>(costs, maximize), costs.ndim() == 3, return_duals, threads);
        });
      },
      py::arg("costs").noconvert(), py::arg("maximize"), py::arg("return_duals"), py::arg("threads"));
}

}  // namespace salcr
