#include "loop.hpp"

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <system_error>

#include "signal_fd.hpp"

namespace logos {

Loop::Loop() {
  open_pipe(wake_);
  // Signals are for the program's own threads.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread_ = std::thread([this] { main(); });
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    close_pipe(wake_);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  thread_id_ = thread_.get_id();
}

Loop::~Loop() {
  stop();
  close_pipe(wake_);
}

bool Loop::post(Work work) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return false;
  posted_.push_back(std::move(work));
  if (!signalled_) {
    signalled_ = true;
    signal_pipe(wake_);
  }
  return true;
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
  for (;;) {
    if (changed_) {
      changed_ = false;
      items_.assign(1, {nullptr, wake_[0], ZMQ_POLLIN, 0});
      for (const auto& [handle, readable] : watched_) items_.push_back({handle, 0, ZMQ_POLLIN, 0});
    }
    zmq::poll(items_, patience());
    if (items_[0].revents != 0 && !run_posted()) return;
    for (std::size_t index = 1; index < items_.size(); ++index) {
      const zmq::pollitem_t item = items_[index];
      if (item.revents == 0) continue;
      // A callback may end the watch of another socket, or of its own.
      if (const auto found = watched_.find(item.socket); found != watched_.end()) {
        const Work readable = found->second;
        readable();
      }
    }
    run_timers();
  }
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
