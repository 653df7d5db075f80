#pragma once
#include <cstdint>
#include <vector>

#include "knn_codes.hpp"
#include "knn_screen.hpp"

namespace salcr {

// A row of float32 in 8 bits.
struct RoundedRow {
  float unit;   // what a code counts
  double norm;  // of the row, before it was rounded
  float lost;   // the norm of what rounding took from it, or more
};

// Writes codes [width] from -127 to 127.
RoundedRow round_row(const float* row, std::int64_t width, std::int8_t* codes);

// Queries in 8 bits, kPanel at a time, and their products with strips of coded rows: whole numbers without an error.
class CodedQueries {
 public:
  CodedQueries(const float* queries, std::int64_t count, std::int64_t width, bool vnni, int threads);

  struct Panel {
    float unit[kPanel];          // what a code counts
    float error[kPanel];         // what rounding took from the query
    float grows[kPanel];         // its norm and that: times the row's error
    std::int32_t shift[kPanel];  // what the 128 in the codes of rows add to its products
  };

  std::int64_t panels() const { return static_cast<std::int64_t>(panels_.size()); }
  const Panel& panel(std::int64_t at) const { return panels_[at]; }

  // Writes products [kStrip][kPanel] of kStrip rows with a panel; `ahead` points to the strip that is read next, or is null. A
  // strip stays in `memory`, scratch() numbers, from one panel to the next; `fresh`: this one is not there yet.
  void multiply(const std::uint8_t* strip, std::int64_t panel, const std::uint8_t* ahead, bool fresh,
                std::int16_t* memory, std::int32_t* products) const;

  std::int64_t scratch() const { return vnni_ ? 0 : kStrip * length_; }

 private:
  std::int64_t length_, stride_;  // of a coded row: its codes, all of it
  bool vnni_;
  std::vector<Panel> panels_;
  std::vector<std::int8_t> bytes_;    // [panels][length / 4][kPanel][4], with room to be aligned
  std::vector<std::int16_t> shorts_;  // or [panels][kPanel][length]
  std::int8_t* aligned_ = nullptr;
};

}  // namespace salcr
