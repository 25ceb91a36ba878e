#include "stream.hpp"

#include <algorithm>

#include "frames.hpp"

namespace logos {
namespace {

/// Of the client's own, while the app does not look: a server that flaps makes two a second.
constexpr std::size_t kMaxLocal = 64;

}  // namespace

std::uint64_t AppStream::opening_credit() const { return window_ - std::min(window_, queued_bytes_); }

std::optional<Position> AppStream::greeted(const Id& stream, std::uint64_t acked, std::uint64_t credit) {
  received_ = 0;
  granted_ = credit;
  std::optional<Position> lost;
  if (stream_ != stream) {
    if (stream_) lost = Position{*stream_, last_seq_};
    stream_ = stream;
    last_seq_ = acked;
  }
  last_seq_ = std::max(last_seq_, acked);
  acked_ = Position{stream, acked};
  return lost;
}

bool AppStream::receive(AppEventFrames&& frames, std::uint64_t cost) {
  if (frames.kind == 0) return false;  // a heartbeat takes no seq and no credit
  if (frames.event && std::holds_alternative<TakenOver>(*frames.event)) {
    put(std::move(*frames.event), 0, std::nullopt);
    return true;
  }
  received_ += cost;
  const auto& [stream, seq, time] = frames.position;
  if (stream_ != stream) {
    count_garbage();
    return false;
  }
  if (seq <= last_seq_) {
    ++counters.duplicates;  // delivery is at least once
    return false;
  }
  const auto* dropped = frames.event ? std::get_if<EventsDropped>(&*frames.event) : nullptr;
  if (seq != last_seq_ + 1 && !(dropped != nullptr && dropped->first <= last_seq_ + 1)) report_missing(frames.position);
  last_seq_ = seq;
  const Position position{stream, seq};
  if (!frames.event) {
    ++counters.unknown;
    handled_with_the_last(position);
    return false;
  }
  ++counters.received;
  put(std::move(*frames.event), cost, position);
  return true;
}

/// Nothing to show, but acknowledged in its turn, together with the event before it.
void AppStream::handled_with_the_last(const Position& position) {
  if (!queue_.empty()) {
    queue_.back().position = position;
  } else if (in_hand_) {
    hand_position_ = position;
  } else {
    handled_ = position;
  }
}

/// The server skipped events without saying so: the app must know all the same.
void AppStream::report_missing(const EventPosition& behind) {
  EventsDropped gap;
  static_cast<EventPosition&>(gap) = {behind.stream_id, behind.seq - 1, behind.time_ns};
  gap.first = last_seq_ + 1;
  gap.last = behind.seq - 1;
  gap.reason = "never received";
  counters.missing += behind.seq - gap.first;
  put(std::move(gap), 0, std::nullopt);
}

void AppStream::put_local(Event event) {
  if (local_ >= kMaxLocal) {
    queue_.erase(std::find_if(queue_.begin(), queue_.end(), [](const Queued& queued) { return queued.local; }));
    --local_;
    ++counters.local_dropped;
  }
  ++local_;
  put(std::move(event), 0, std::nullopt, true);
}

void AppStream::put(Event event, std::uint64_t cost, std::optional<Position> position, bool local) {
  queue_.push_back({std::move(event), cost, position, local});
  queued_bytes_ += cost;
}

std::optional<Event> AppStream::take() {
  handled();
  if (queue_.empty()) return std::nullopt;
  Queued& queued = queue_.front();
  in_hand_ = true;
  hand_cost_ = queued.cost;
  hand_position_ = queued.position;
  if (queued.local) --local_;
  std::optional<Event> event = std::move(queued.event);
  queue_.pop_front();
  return event;
}

void AppStream::handled() {
  if (!in_hand_) return;
  in_hand_ = false;
  queued_bytes_ -= hand_cost_;
  if (hand_position_) handled_ = hand_position_;
}

std::optional<std::uint64_t> AppStream::credit_due() const {
  const std::uint64_t total = received_ + opening_credit();
  if (total < granted_ + std::max<std::uint64_t>(1, window_ / 4)) return std::nullopt;
  return total;
}

std::optional<Position> AppStream::ack_due() const {
  if (!handled_ || stream_ != handled_->stream_id) return std::nullopt;
  if (acked_ && handled_->seq <= acked_->seq) return std::nullopt;
  return handled_;
}

void AppStream::acked(const Position& position) {
  if (stream_ == position.stream_id && (!acked_ || position.seq > acked_->seq)) acked_ = position;
}

}  // namespace logos
