// The kernel's event streams as one queue: gap detection, replay, bounded memory.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "cursor.hpp"
#include "frames.hpp"
#include "inbox.hpp"
#include "kernel_session.hpp"

namespace logos {

/// From one attempt to catch up to the next, at first.
inline constexpr Milliseconds kReplayRetry(200);

class KernelFeed::State : public std::enable_shared_from_this<KernelFeed::State> {
 public:
  State(std::shared_ptr<KernelClient::Session> session, FeedOptions options);
  ~State() { close(); }

  /// Lease, subscribe, and wait until the subscriptions are in force. Throws `Error`.
  void open();
  void close();
  std::optional<KernelEvent> next(std::optional<Milliseconds> timeout);
  std::optional<KernelEvent> try_next();
  int event_fd();
  FeedCounters counters();

  // On the loop's thread.
  void lost(const std::string& reason);
  void found(const Id& instance, bool restarted);

 private:
  // On the loop's thread.
  void open_socket();
  void drain();
  bool receive();
  void take_in(StreamCursor& cursor, BytesView header, BytesView payload);
  void show(StreamCursor& cursor, KernelEventFrames&& frames);
  void put(KernelEvent event);
  void announce();
  void close_socket();
  void end(const std::string& reason);
  [[nodiscard]] bool beats(const StreamCursor& cursor) const;
  void watch();
  void look_after(bool answers);
  void report(StreamCursor& cursor);
  void catch_up(StreamCursor& cursor);
  void work();
  void fill(StreamCursor& cursor);
  void replayed(StreamCursor& cursor, const Reply& reply);
  void filled(StreamCursor& cursor);
  void failed(StreamCursor& cursor, const Error& error);
  void work_in(Milliseconds delay);
  void ended_replay(StreamCursor& cursor, const Error& error);
  std::function<void(Outcome&&)> guarded(StreamCursor& cursor, void (State::*then)(StreamCursor&, const Reply&));
  void took_health(StreamCursor& cursor, const Reply& reply);
  void took_peers(StreamCursor& cursor, const Reply& reply);
  void count(std::uint64_t FeedCounters::*which, std::uint64_t more = 1);
  // With the lock.
  std::optional<KernelEvent> take();
  [[nodiscard]] bool silent() const;
  bool update() { return inbox_.update(!queue_.empty() || closed_ || ended_); }

  struct Queued {
    KernelEvent event;
    std::uint64_t cost;
  };

  const std::shared_ptr<KernelClient::Session> session_;
  const FeedOptions options_;
  std::mutex mutex_;
  std::condition_variable heard_;
  std::deque<Queued> queue_;     // guarded by mutex_
  std::uint64_t queued_ = 0;     // guarded by mutex_
  bool room_ = true;             // guarded by mutex_
  bool parked_ = false;          // guarded by mutex_: catching up waits for room
  bool closed_ = false;          // guarded by mutex_
  bool ended_ = false;           // guarded by mutex_: by an event that we cannot read
  bool leased_ = false;          // guarded by mutex_
  std::size_t silent_ = 0;       // guarded by mutex_: streams without a heartbeat yet
  FeedCounters counters_;        // guarded by mutex_
  Inbox inbox_;                  // guarded by mutex_

  // The loop's.
  std::map<std::string, StreamCursor, std::less<>> cursors_;  // by F0
  zmq::socket_t socket_;
  std::string endpoint_;
  std::vector<zmq::message_t> parts_;
  bool working_ = false;
  std::size_t turn_ = 0;
  Milliseconds delay_{};
  std::optional<Loop::Timer> timer_;
  std::optional<Loop::Timer> watch_;
  Clock::time_point last_word_;  // when something came
  bool down_ = false;            // the kernel, as its silence showed
};

}  // namespace logos
