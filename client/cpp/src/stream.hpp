// The client's end of an app's stream, over any number of connections: order, repeats, credit, acks. No I/O, no lock.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>

#include "logos/contract.hpp"
#include "logos/messaging.hpp"

namespace logos {

class AppStream {
 public:
  /// `window`: bytes of events that may be queued here or be on their way (one event may overdraw it).
  explicit AppStream(std::uint64_t window) : window_(window) {}

  /// What a hello grants: the window, less what is still queued here.
  [[nodiscard]] std::uint64_t opening_credit() const;
  /// A hello that granted `credit` was accepted. Returns where the stream before it ended if this is another one.
  std::optional<Position> greeted(const Id& stream, std::uint64_t acked, std::uint64_t credit);

  /// Take in an event's frames, of which header and payload have `cost` bytes. False: there is nothing for the app.
  bool receive(struct AppEventFrames&& frames, std::uint64_t cost);
  /// Queue an event of the client's own. Beyond a bound the oldest of them are dropped.
  void put_local(Event event);
  void count_garbage() { ++counters.garbage; }

  [[nodiscard]] bool empty() const { return queue_.empty(); }
  /// The next event, which the app then holds; the one before it counts as handled.
  std::optional<Event> take();
  /// The app is done with the event that it holds: its bytes may be granted again.
  void handled();

  [[nodiscard]] std::optional<Position> last_handled() const { return handled_; }
  [[nodiscard]] std::uint64_t last_seq() const { return last_seq_; }
  /// Where the stream ends here. It must have begun.
  [[nodiscard]] Position last_position() const { return {stream_.value(), last_seq_}; }
  [[nodiscard]] std::uint64_t queued_bytes() const { return queued_bytes_; }
  /// The new total to grant, once a quarter of the window can be given back.
  [[nodiscard]] std::optional<std::uint64_t> credit_due() const;
  void granted(std::uint64_t total) { granted_ = total; }
  /// What was handled and is not acknowledged.
  [[nodiscard]] std::optional<Position> ack_due() const;
  void acked(const Position& position);

  StreamCounters counters;

 private:
  struct Queued {
    Event event;
    std::uint64_t cost;
    std::optional<Position> position;
    bool local;
  };

  void put(Event event, std::uint64_t cost, std::optional<Position> position, bool local = false);
  void report_missing(const EventPosition& behind);
  void handled_with_the_last(const Position& position);

  std::uint64_t window_;
  std::optional<Id> stream_;
  std::uint64_t last_seq_ = 0;  // the last one queued
  std::deque<Queued> queue_;
  std::uint64_t queued_bytes_ = 0;  // of events queued or held by the app
  std::size_t local_ = 0;
  bool in_hand_ = false;
  std::uint64_t hand_cost_ = 0;
  std::optional<Position> hand_position_;
  std::uint64_t received_ = 0;  // since the last hello
  std::uint64_t granted_ = 0;   // since the last hello
  std::optional<Position> handled_;
  std::optional<Position> acked_;
};

}  // namespace logos
