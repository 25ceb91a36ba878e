// A thread that waits on ZeroMQ sockets, runs timers, and takes work from other threads.
#pragma once

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
  /// Run `work` on the loop's thread and wait for its end.
  void run(const Work& work);
  /// End the thread, behind what was posted. Idempotent.
  void stop();
  [[nodiscard]] bool here() const { return std::this_thread::get_id() == thread_id_; }

  // On the loop's thread only.
  Timer at(Clock::time_point when, Work work) { return timers_.emplace(when, std::move(work)); }
  Timer after(Clock::duration delay, Work work) { return at(Clock::now() + delay, std::move(work)); }
  void cancel(Timer timer) { timers_.erase(timer); }
  void watch(zmq::socket_ref socket, Work readable);
  void unwatch(zmq::socket_ref socket);

  zmq::context_t context{1};

 private:
  void main();
  bool run_posted();
  void run_timers();
  [[nodiscard]] std::chrono::milliseconds patience() const;

  std::mutex mutex_;
  std::vector<Work> posted_;  // guarded by mutex_
  bool signalled_ = false;    // guarded by mutex_
  bool stopping_ = false;     // guarded by mutex_
  int wake_[2] = {-1, -1};
  std::multimap<Clock::time_point, Work> timers_;
  std::map<void*, Work> watched_;
  std::vector<zmq::pollitem_t> items_;
  bool changed_ = true;
  std::thread thread_;
  std::thread::id thread_id_;
};

}  // namespace logos
