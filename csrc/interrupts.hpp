// Ctrl-C while a function of the extension works: Python notes a signal, and runs its handler once it is asked to.
#pragma once
#include <chrono>

namespace salcr {

// Runs the handlers of signals that have come, and throws what they raise. Python runs them in its main thread alone: in any other
// this returns at once. The bindings set it.
inline void (*run_signal_handlers)() = nullptr;

// For a loop of one call, which asks as often as it likes. What takes less than kPause is never left half done.
class Interrupts {
 public:
  void poll() {
    const auto now = Clock::now();
    if (now < next_) return;
    next_ = now + kPause;
    if (run_signal_handlers != nullptr) run_signal_handlers();
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kPause{100};
  Clock::time_point next_ = Clock::now() + kPause;
};

}  // namespace salcr
