// Views of uint8 images for the network. A thread takes a view and keeps it as three planes of float32 in its cache: the pixels are
// read from the image once, worked on in blocks, and written once, normalised and with channels last. Contrast needs the mean
// grey of the whole view, so the adjustments before it are a pass of their own; local linear scaling is a chain of rectangles,
// each of which needs the maxima of the one before.
//
// What decides when a chain ends (division by 255, products of factors) is rounded as in the reference, step for step.

#include "augmentation.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "parallel.hpp"

namespace salcr {
namespace {

constexpr std::int64_t kBlock = 512;  // pixels: three planes of them stay in the first cache
constexpr int kLanes = 16;            // of sums and maxima, which the compiler may not regroup by itself
constexpr float kMean[] = {0.485f, 0.456f, 0.406f}, kDeviation[] = {0.229f, 0.224f, 0.225f};
constexpr float kErased[] = {0.4914f, 0.4822f, 0.4465f}, kGrey[] = {0.2989f, 0.5870f, 0.1140f};
constexpr float kScaledAway = 1e-6f;
enum Adjustment { kNothing, kBrightness, kContrast, kSaturation, kHue };
enum Mix { kAllChannels = -1, kGreyOfAll = 3 };

struct Range {
  std::int64_t begin, end;
};

// The whole numbers of [low, high) within [0, size).
Range clipped(float low, float high, std::int64_t size) {
  const auto bound = [size](float x) {
    return static_cast<std::int64_t>(std::ceil(std::clamp(x, 0.0f, static_cast<float>(size))));
  };
  return {bound(low), bound(high)};
}

std::int64_t whole(float x) { return static_cast<std::int64_t>(std::clamp(x, -1e9f, 1e9f)); }

float unit(float x) { return std::min(std::max(x, 0.0f), 1.0f); }

float grey(float r, float g, float b) { return r * kGrey[0] + g * kGrey[1] + b * kGrey[2]; }

// Calls body(i, lane) for all i below count, neighbours in different lanes.
template <typename Body>
void in_lanes(std::int64_t count, Body&& body) {
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) body(i + lane, lane);
  for (int lane = 0; i < count; ++i, ++lane) body(i, lane);
}

void adjust_brightness(float* r, float* g, float* b, std::int64_t count, float factor) {
  for (float* plane : {r, g, b})
    for (std::int64_t i = 0; i < count; ++i) plane[i] = unit(plane[i] * factor);
}

void adjust_contrast(float* r, float* g, float* b, std::int64_t count, float factor, float mean) {
  for (float* plane : {r, g, b})
    for (std::int64_t i = 0; i < count; ++i) plane[i] = unit(mean + factor * (plane[i] - mean));
}

void adjust_saturation(float* r, float* g, float* b, std::int64_t count, float factor) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float l = grey(r[i], g[i], b[i]);
    r[i] = unit(l + factor * (r[i] - l));
    g[i] = unit(l + factor * (g[i] - l));
    b[i] = unit(l + factor * (b[i] - l));
  }
}

// A channel of a pixel whose hue is a sixth of a turn times `phase`.
float channel(float value, float chroma, float phase) {
  phase -= 6 * std::floor(phase / 6);
  return value - chroma * unit(std::min(phase, 4 - phase));
}

void turn_hue(float* r, float* g, float* b, std::int64_t count, float turn) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float red = r[i], green = g[i], blue = b[i];
    const float value = std::max(red, std::max(green, blue)), chroma = value - std::min(red, std::min(green, blue));
    const float ahead = value == red ? green - blue : value == green ? blue - red : red - green;
    const float sector = value == red ? 0.0f : value == green ? 2.0f : 4.0f;
    const float hue = sector + ahead / (chroma > 0 ? chroma : 1.0f) + 6 * turn;
    r[i] = channel(value, chroma, hue + 5);
    g[i] = channel(value, chroma, hue + 3);
    b[i] = channel(value, chroma, hue + 1);
  }
}

void store(float* to, float x) { *to = x; }

// Rounded to the nearest bfloat16, ties to even; x is finite.
void store(std::uint16_t* to, float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  *to = static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// One view at a time, in the memory of one thread.
class View {
 public:
  explicit View(const Augmentation& all) : all_(all), pixels_(all.height * all.width), values_(3 * pixels_) {}

  template <typename Real>
  void make(std::int64_t view, Real* out) {
    const std::uint8_t* image = all_.images + (all_.rows ? all_.rows[view] : view) * 3 * pixels_;
    const Draws draws = all_.draws ? all_.draws[view] : untouched();
    load(image, whole(draws.top), whole(draws.left), whole(draws.mirrored) != 0);
    if (all_.scalings && draws.scaling >= 0) scale(all_.scalings + whole(draws.scaling) * all_.chain);
    adjust(draws);
    const Range erased = clipped(draws.erased_top, draws.erased_bottom, all_.height);
    const Range columns = clipped(draws.erased_left, draws.erased_right, all_.width);
    for (std::int64_t y = 0; y < all_.height; ++y) {
      const bool within = y >= erased.begin && y < erased.end;
      finish(y * all_.width, within ? columns : Range{0, 0}, whole(draws.channels), out + 3 * y * all_.width);
    }
  }

 private:
  static Draws untouched() {
    Draws draws{};
    draws.channels = draws.scaling = -1;
    return draws;
  }

  float* plane(int c) { return values_.data() + c * pixels_; }

  // Pixel (y, x) becomes that at (y + top, x + left) of the image over 255, x counted from the right if mirrored.
  void load(const std::uint8_t* image, std::int64_t top, std::int64_t left, bool mirrored) {
    const std::int64_t width = all_.width;
    const std::int64_t begin = std::clamp<std::int64_t>(-left, 0, width);
    const std::int64_t end = std::clamp<std::int64_t>(width - left, begin, width);
    for (std::int64_t y = 0; y < all_.height; ++y) {
      const bool within = y + top >= 0 && y + top < all_.height;
      for (int c = 0; c < 3; ++c) {
        float* to = plane(c) + y * width;
        if (!within) {
          std::fill(to, to + width, 0.0f);
          continue;
        }
        const std::uint8_t* from = image + 3 * ((y + top) * width + left) + c;
        std::fill(to, to + begin, 0.0f);
        for (std::int64_t x = begin; x < end; ++x) to[x] = static_cast<float>(from[3 * x]) / 255.0f;
        std::fill(to + end, to + width, 0.0f);
        if (mirrored) std::reverse(to, to + width);
      }
    }
  }

  void scale(const Scaling* chain) {
    products_.assign(3 * pixels_, 1.0f);
    float least = 1.0f;
    for (const Scaling* link = chain; link != chain + all_.chain && least > kScaledAway; ++link) {
      const Range rows = clipped(link->top, link->bottom, all_.height);
      const Range columns = clipped(link->left, link->right, all_.width);
      for (int c = 0; c < 3; ++c) {
        const float brightest = brightest_in(c, rows, columns);
        if (brightest > 0) least = std::min(least, multiply(c, rows, columns, link->beta[c] / brightest));
      }
    }
    for (std::int64_t i = 0; i < 3 * pixels_; ++i) values_[i] = unit(values_[i] * products_[i]);
  }

  // Of the scaled values of a plane inside a rectangle.
  float brightest_in(int c, Range rows, Range columns) {
    float lanes[kLanes] = {};
    for (std::int64_t y = rows.begin; y < rows.end; ++y) {
      const std::int64_t first = y * all_.width + columns.begin;
      const float *plain = plane(c) + first, *product = products_.data() + c * pixels_ + first;
      in_lanes(columns.end - columns.begin, [&](std::int64_t i, int lane) {
        lanes[lane] = std::max(lanes[lane], plain[i] * product[i]);
      });
    }
    return *std::max_element(lanes, lanes + kLanes);
  }

  // Multiplies the products of a plane inside a rectangle by `factor`; the least of them.
  float multiply(int c, Range rows, Range columns, float factor) {
    float lanes[kLanes];
    std::fill(lanes, lanes + kLanes, 1.0f);
    for (std::int64_t y = rows.begin; y < rows.end; ++y) {
      float* product = products_.data() + c * pixels_ + y * all_.width + columns.begin;
      in_lanes(columns.end - columns.begin, [&](std::int64_t i, int lane) {
        product[i] *= factor;
        lanes[lane] = std::min(lanes[lane], product[i]);
      });
    }
    return *std::min_element(lanes, lanes + kLanes);
  }

  void adjust(const Draws& draws) {
    int steps[4], count = 0;
    for (const float adjustment : draws.adjustments) {
      const int step = static_cast<int>(adjustment);
      if (step != kNothing) steps[count++] = step;
    }
    int done = 0;
    while (done < count) {  // up to the next contrast, which begins a pass
      float mean = 0;
      if (steps[done] == kContrast) mean = mean_grey();
      int end = done + 1;
      while (end < count && steps[end] != kContrast) ++end;
      for (std::int64_t i = 0; i < pixels_; i += kBlock)
        for (int step = done; step < end; ++step) apply(steps[step], draws, i, std::min(kBlock, pixels_ - i), mean);
      done = end;
    }
  }

  void apply(int step, const Draws& draws, std::int64_t first, std::int64_t count, float mean) {
    float *r = plane(0) + first, *g = plane(1) + first, *b = plane(2) + first;
    if (step == kBrightness) adjust_brightness(r, g, b, count, draws.brightness);
    if (step == kContrast) adjust_contrast(r, g, b, count, draws.contrast, mean);
    if (step == kSaturation) adjust_saturation(r, g, b, count, draws.saturation);
    if (step == kHue) turn_hue(r, g, b, count, draws.turn);
  }

  float mean_grey() {
    double total = 0;
    for (std::int64_t i = 0; i < pixels_; i += kBlock) {
      const std::int64_t count = std::min(kBlock, pixels_ - i);
      const float *r = plane(0) + i, *g = plane(1) + i, *b = plane(2) + i;
      float lanes[kLanes] = {};
      in_lanes(count, [&](std::int64_t j, int lane) { lanes[lane] += grey(r[j], g[j], b[j]); });
      for (const float lane : lanes) total += lane;
    }
    return static_cast<float>(total / static_cast<double>(pixels_));
  }

  // Normalises a row of pixels from `first` on, erases columns of it, mixes its channels and writes them side by side.
  template <typename Real>
  void finish(std::int64_t first, Range erased, std::int64_t mix, Real* out) {
    float* planes[] = {plane(0) + first, plane(1) + first, plane(2) + first};
    const std::int64_t width = all_.width;
    for (int c = 0; c < 3; ++c) {
      const float scale = 1 / kDeviation[c];
      for (std::int64_t x = 0; x < width; ++x) planes[c][x] = (planes[c][x] - kMean[c]) * scale;
      if (erased.begin < erased.end) std::fill(planes[c] + erased.begin, planes[c] + erased.end, kErased[c]);
    }
    if (mix == kGreyOfAll)
      for (std::int64_t x = 0; x < width; ++x) planes[0][x] = grey(planes[0][x], planes[1][x], planes[2][x]);
    const bool all = mix == kAllChannels;
    const float* r = planes[all || mix == kGreyOfAll ? 0 : mix];
    const float *g = all ? planes[1] : r, *b = all ? planes[2] : r;
    for (std::int64_t x = 0; x < width; ++x) {
      store(out + 3 * x, r[x]);
      store(out + 3 * x + 1, g[x]);
      store(out + 3 * x + 2, b[x]);
    }
  }

  const Augmentation& all_;
  std::int64_t pixels_;
  std::vector<float> values_, products_;  // three planes each
};

}  // namespace

template <typename Real>
void augment(const Augmentation& augmentation, Real* out) {
  std::vector<View> views(augmentation.threads, View(augmentation));
  const std::int64_t size = 3 * augmentation.height * augmentation.width;
  parallel_chunks(augmentation.views, 1, augmentation.threads, [&](std::int64_t view, std::int64_t, int thread) {
    views[thread].make(view, out + view * size);
  });
}

template void augment(const Augmentation&, float*);
template void augment(const Augmentation&, std::uint16_t*);

}  // namespace salcr
