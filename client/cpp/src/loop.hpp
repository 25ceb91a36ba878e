// A thread that waits on ZeroMQ sockets, runs timers, and takes work from other threads.
#pragma once

#include <poll.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>
#include <zmq.hpp>

namespace logos {

using Clock = std::chrono::steady_clock;

class Loop {
 public:
  using Work = std::function<void()>;
  using Timer = std::multimap<Clock::time_point, Work>::iterator;

  Loop();
  /// Sockets must be closed by then, on the loop's thread.
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  /// Run `work` on the loop's thread. From any thread. False: the loop has ended.
  bool post(Work work);
  /// While the loop sleeps, run `work` at once, on the calling thread in the loop's place: a thread that is woken for one
  /// request costs it a third of its round trip. False: it did not run, or returned false; `post` remains.
  bool perform(const std::function<bool()>& work);
  /// Run `work` on the loop's thread and wait for its end.
  void run(const Work& work);
  /// End the thread, behind what was posted. Idempotent.
  void stop();
  /// Whether the calling thread is the loop's, or runs in its place.
  [[nodiscard]] bool here() const { return std::this_thread::get_id() == runner_.load(std::memory_order_relaxed); }

  // On the loop's thread only, or in its place.
  Timer at(Clock::time_point when, Work work) { return timers_.emplace(when, std::move(work)); }
  Timer after(Clock::duration delay, Work work) { return at(Clock::now() + delay, std::move(work)); }
  void cancel(Timer timer) { timers_.erase(timer); }
  void watch(zmq::socket_ref socket, Work readable);
  void unwatch(zmq::socket_ref socket);

  zmq::context_t context{1};

 private:
  /// The right to use the sockets and the timers. The loop has it except while it sleeps.
  class Turn {
   public:
    explicit Turn(Loop& loop) : loop_(loop) {}
    ~Turn() {
      if (lock_) leave();
    }
    void wait() {
      lock_.lock();
      loop_.runner_ = std::this_thread::get_id();
    }
    bool take() {
      if (!lock_.try_lock()) return false;
      loop_.runner_ = std::this_thread::get_id();
      return true;
    }
    void leave() {
      loop_.runner_ = std::thread::id();
      lock_.unlock();
    }

   private:
    Loop& loop_;
    std::unique_lock<std::mutex> lock_{loop_.turn_, std::defer_lock};
  };

  void main();
  void sleep(Turn& turn);
  void signal();
  [[nodiscard]] bool readable();
  bool run_posted();
  void run_timers();
  [[nodiscard]] std::chrono::milliseconds patience() const;

  std::mutex mutex_;
  std::vector<Work> posted_;  // guarded by mutex_
  bool signalled_ = false;    // guarded by mutex_
  bool stopping_ = false;     // guarded by mutex_
  int wake_[2] = {-1, -1};
  std::mutex turn_;
  std::atomic<std::thread::id> runner_;  // who has the turn
  std::multimap<Clock::time_point, Work> timers_;  // guarded by turn_
  std::map<void*, Work> watched_;                  // guarded by turn_
  Clock::time_point wakes_at_;                     // guarded by turn_
  bool changed_ = true;                            // guarded by turn_
  std::vector<pollfd> descriptors_;  // the loop's: of the pipe, and of handles_
  std::vector<void*> handles_;       // the loop's
  std::thread thread_;
};

}  // namespace logos
