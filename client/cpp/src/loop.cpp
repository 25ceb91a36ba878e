#include "loop.hpp"

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <system_error>

#include "signal_fd.hpp"

namespace logos {
namespace {

bool has_input(void* socket) {
  return (zmq::socket_ref(zmq::from_handle, socket).get(zmq::sockopt::events) & ZMQ_POLLIN) != 0;
}

/// Signals are for the program's own work: one that ends a call of libzmq between two frames would leave half a message.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

Loop::Loop() {
  open_pipe(wake_);
  const SignalsBlocked inherited;
  try {
    thread_ = std::thread([this] { main(); });
  } catch (...) {
    close_pipe(wake_);
    throw;
  }
}

Loop::~Loop() {
  stop();
  close_pipe(wake_);
}

bool Loop::post(Work work) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return false;
  posted_.push_back(std::move(work));
  signal();
  return true;
}

/// With mutex_. Wake the loop.
void Loop::signal() {
  if (signalled_) return;
  signalled_ = true;
  signal_pipe(wake_);
}

bool Loop::perform(const std::function<bool()>& work) {
  if (here()) return false;
  const SignalsBlocked meanwhile;
  Turn turn(*this);
  if (!turn.take()) return false;
  {
    const std::lock_guard lock(mutex_);
    if (signalled_ || stopping_) return false;  // something that was posted before it would come after it
  }
  const bool done = work();
  // A use of a socket may consume the edge that the loop's sleep would end with.
  if (readable() || changed_ || (!timers_.empty() && timers_.begin()->first < wakes_at_)) {
    const std::lock_guard lock(mutex_);
    signal();
  }
  return done;
}

void Loop::run(const Work& work) {
  if (here()) return work();
  std::mutex mutex;
  std::condition_variable ended;
  bool done = false;
  const bool taken = post([&] {
    work();
    const std::lock_guard lock(mutex);
    done = true;
    ended.notify_all();
  });
  std::unique_lock lock(mutex);
  if (taken) ended.wait(lock, [&] { return done; });
}

void Loop::stop() {
  {
    const std::lock_guard lock(mutex_);
    if (!stopping_) {
      stopping_ = true;
      signal_pipe(wake_);
    }
  }
  if (thread_.joinable()) thread_.join();
}

void Loop::watch(zmq::socket_ref socket, Work readable) {
  watched_[socket.handle()] = std::move(readable);
  changed_ = true;
}

void Loop::unwatch(zmq::socket_ref socket) {
  watched_.erase(socket.handle());
  changed_ = true;
}

std::chrono::milliseconds Loop::patience() const {
  using std::chrono::milliseconds;
  if (timers_.empty()) return milliseconds(-1);
  const auto wait = std::chrono::ceil<milliseconds>(timers_.begin()->first - Clock::now());
  return std::clamp(wait, milliseconds(0), milliseconds(60'000));
}

void Loop::main() {
  Turn turn(*this);
  turn.wait();
  for (;;) {
    sleep(turn);
    if (descriptors_[0].revents != 0 && !run_posted()) return;
    for (void* const handle : handles_) {
      // A callback may end the watch of another socket, or of its own.
      const auto found = watched_.find(handle);
      if (found == watched_.end() || !has_input(handle)) continue;
      const Work readable = found->second;
      readable();
    }
    run_timers();
  }
}

/// Until there is something to do. Not by zmq_poll: it uses the sockets, and while the loop sleeps another thread may.
void Loop::sleep(Turn& turn) {
  if (changed_) {
    changed_ = false;
    descriptors_.assign(1, {wake_[0], POLLIN, 0});
    handles_.clear();
    for (const auto& [handle, work] : watched_) {
      handles_.push_back(handle);
      descriptors_.push_back({zmq::socket_ref(zmq::from_handle, handle).get(zmq::sockopt::fd), POLLIN, 0});
    }
  }
  // The descriptor of a socket reports edges: only behind a look at its events is silence a reason to sleep.
  const auto wait = readable() ? std::chrono::milliseconds(0) : patience();
  wakes_at_ = timers_.empty() ? Clock::time_point::max() : timers_.begin()->first;
  turn.leave();
  ::poll(descriptors_.data(), descriptors_.size(), static_cast<int>(wait.count()));
  turn.wait();
}

/// Whether a socket has something to receive.
bool Loop::readable() {
  return std::any_of(watched_.begin(), watched_.end(), [](const auto& watched) { return has_input(watched.first); });
}

/// False at the end.
bool Loop::run_posted() {
  std::vector<Work> work;
  bool stopping = false;
  {
    const std::lock_guard lock(mutex_);
    clear_pipe(wake_);
    signalled_ = false;
    work.swap(posted_);
    stopping = stopping_;
  }
  for (Work& one : work) one();
  return !stopping;
}

void Loop::run_timers() {
  const auto now = Clock::now();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    const auto timer = timers_.extract(timers_.begin());
    timer.mapped()();
  }
}

}  // namespace logos
