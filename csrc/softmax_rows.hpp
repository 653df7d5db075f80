#pragma once
#include <cstdint>

namespace salcr {

// A block of products of feature rows with memory rows, row-major [rows, columns]; the logits of a row are its products
// times its scale, which is positive: one number a row.
template <typename Real>
struct ProductRows {
  Real* products;
  const Real* scale;
  std::int64_t rows, columns;
  int threads;
};

// Writes, for each row, the columns of its k largest entries (those strictly above the (k+1)-th), ascending and -1 padded, to
// indices [rows, k], and the log-sum-exp of its logits to lse [rows]. With `shares` the products become the softmax of the logits.
template <typename Real>
void search_rows(const ProductRows<Real>& block, std::int64_t k, bool shares, std::int64_t* indices, Real* lse);

// losses [rows]: lse minus the logit of the row's target, 0 where the target is negative; and lse [rows] itself. Where `soft`
// [rows, columns] is given, the loss is the sum over columns of soft * (lse - logit), and of targets only the sign counts.
template <typename Real>
void contrast_losses(const ProductRows<Real>& block, const std::int64_t* targets, const Real* soft, Real* losses,
                     Real* lse);

// The products become weight[row] * (softmax of the logits - one at the target), zero where the target is negative. With
// `soft`: weight[row] * (sum of soft * softmax of the logits - soft).
template <typename Real>
void contrast_shares(const ProductRows<Real>& block, const std::int64_t* targets, const Real* soft, const Real* weight);

// Gradients [rows, width] of unit rows become those of the rows themselves, in place.
template <typename Real>
void rows_through_normalisation(Real* gradient, const Real* features, std::int64_t rows, std::int64_t width,
                                int threads);

}  // namespace salcr
