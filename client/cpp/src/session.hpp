// The session of an app: its connection, its stream, and the credit and acks between them.
#pragma once

#include <mutex>
#include <set>

#include "calls.hpp"
#include "channel_hooks.hpp"
#include "inbox.hpp"
#include "stream.hpp"

namespace logos {

class MessagingClient::Session {
 public:
  Session(const std::string& endpoint, const ConnectOptions& options);
  ~Session();
  void close(bool handled);

  /// Ask and wait. Throws `Error`.
  Reply ask(std::string method, const Value& body, bool repeat, Milliseconds timeout,
            const std::vector<BytesView>& blobs = {});
  void ask_async(std::string method, const Value& body, bool repeat, Milliseconds timeout,
                 const std::vector<BytesView>& blobs, std::function<void(Outcome&&)> done);
  void check_payload(BytesView payload);
  void ack(const Position& position, Milliseconds timeout);
  void note_topics(const std::vector<std::string>& topics, bool subscribed);

  void set_hooks(const std::string& channel_id, Hook encrypt, Hook decrypt);
  void clear_hooks(const std::string& channel_id);
  /// Null: there are none.
  std::shared_ptr<const HookPair> hooks_of(const std::string& channel_id);

  std::optional<Event> next(std::optional<Milliseconds> timeout);
  std::optional<Event> try_next();
  [[nodiscard]] bool ended();
  int event_fd();
  void on_events(std::function<void()> callback);

  /// Read what is known, under the lock.
  template <class Look>
  auto look(Look look) {
    const std::lock_guard lock(mutex_);
    return look(*hello_, status_, stream_);
  }
  [[nodiscard]] bool ready() const { return connection_.ready(); }

 private:
  static constexpr Milliseconds kRetry{200};
  static constexpr Milliseconds kRetryMax{5000};

  static Value ack_body(const Position& position);
  void check_open();
  // On the loop's thread.
  Value hello_body();
  void greeted(const Value& body);
  void resubscribe(const std::vector<std::string>& topics, Milliseconds delay);
  void restored(std::map<std::string, std::string> errors);
  void link_lost(const std::string& reason);
  void receive(std::span<const BytesView> frames);
  void note_status(const Event& event);
  void settle();
  void settle_later();
  void announce();
  void give_back(std::shared_ptr<const OpenedSegment> opened, Milliseconds delay);
  // With the lock.
  std::optional<Event> take(std::unique_lock<std::mutex>& lock);
  bool update() { return inbox_.update((!stream_.empty() && !opening_) || at_end()); }
  [[nodiscard]] bool at_end() const { return stream_.empty() && (closed_ || taken_over_); }
  [[nodiscard]] bool is_due() const;

  const ConnectOptions options_;
  std::mutex mutex_;
  AppStream stream_;               // guarded by mutex_
  std::optional<MapiHello> hello_;  // guarded by mutex_
  StatusReply status_;             // guarded by mutex_
  std::set<std::string> topics_;   // guarded by mutex_
  Inbox inbox_;                    // guarded by mutex_
  ChannelHooks hooks_;             // guarded by mutex_
  bool opening_ = false;           // guarded by mutex_: the event in hand is a segment that is being given back
  bool closed_ = false;            // guarded by mutex_
  bool taken_over_ = false;        // guarded by mutex_
  bool posted_ = false;            // guarded by mutex_: a settlement is on its way to the loop
  bool ack_armed_ = false;         // guarded by mutex_: the timer of the next ack runs

  std::uint64_t offered_ = 0;              // the loop's
  std::optional<Loop::Timer> ack_timer_;   // the loop's
  std::optional<Loop::Timer> retry_timer_;  // the loop's
  std::optional<Loop::Timer> opening_timer_;  // the loop's
  std::optional<Position> lost_;            // the loop's: the end of a stream that is gone, until it is reported
  bool news_ = false;                       // the loop's
  std::function<void()> callback_;          // the loop's
  Loop loop_;
  Connection connection_;
  Caller caller_;
};

}  // namespace logos
