// What a thread that takes events waits for: a condition or a file descriptor. Guarded by the lock of its owner.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <stdexcept>

#include "logos/messaging.hpp"
#include "loop.hpp"
#include "signal_fd.hpp"

namespace logos {

class Inbox {
 public:
  /// Whether there is something to take, or never will be. True: there is, after there was not. The lock is held.
  bool update(bool waiting) {
    flag_.set(waiting);
    if (waiting && takers_ != 0) changed_.notify_all();
    const bool news = waiting && !waiting_;
    waiting_ = waiting;
    return news;
  }
  int descriptor() { return flag_.descriptor(waiting_); }

  /// Wait until `take` gives something or `ended`. Throws `Error` (`kDeadlineExceeded`).
  template <class Take, class Ended>
  auto wait(std::unique_lock<std::mutex>& lock, std::optional<Milliseconds> timeout, Take take, Ended ended)
      -> decltype(take()) {
    if (takers_ != 0) throw std::logic_error("another thread is waiting for the next event");
    ++takers_;
    struct Leave {
      std::size_t& takers;
      ~Leave() { --takers; }
    } const leave{takers_};
    const auto deadline = Clock::now() + timeout.value_or(Milliseconds(0));
    for (;;) {
      if (auto taken = take()) return taken;
      if (ended()) return std::nullopt;
      if (!timeout) {
        changed_.wait(lock);
      } else if (changed_.wait_until(lock, deadline) == std::cv_status::timeout && !waiting_) {
        throw Error(ErrorCode::kDeadlineExceeded, "no event in " + std::to_string(timeout->count()) + " ms");
      }
    }
  }

 private:
  std::condition_variable changed_;
  std::size_t takers_ = 0;
  bool waiting_ = false;
  ReadableFlag flag_;
};

}  // namespace logos
