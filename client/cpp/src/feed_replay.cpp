// Catching up on what a feed lacks: replays of messages, and the whole state for health and peers.
#include <algorithm>

#include "feed.hpp"
#include "fields.hpp"

namespace logos {
namespace {

using namespace std::chrono_literals;

constexpr Milliseconds kRetryMax = 5s;

}  // namespace

void KernelFeed::State::catch_up(StreamCursor& cursor) {
  cursor.behind = true;
  if (working_) return;
  working_ = true;
  work();
}

/// Fill the gaps of all streams, one after another.
void KernelFeed::State::work() {
  std::vector<StreamCursor*> behind;
  for (auto& [topic, cursor] : cursors_) {
    if (cursor.behind) behind.push_back(&cursor);
  }
  {
    const std::lock_guard lock(mutex_);
    if (closed_ || behind.empty()) {
      working_ = false;
      return;
    }
    if (!room_) {
      parked_ = true;
      return;
    }
  }
  fill(*behind[turn_ % behind.size()]);
}

void KernelFeed::State::fill(StreamCursor& cursor) {
  if (cursor.stream == "p") {
    session_->ask_later("node.health", Value::Map{}, guarded(cursor, &State::took_health));
  } else if (cursor.stream == "n") {
    session_->ask_later("peers.list", Value::Map{}, guarded(cursor, &State::took_peers));
  } else {
    count(&FeedCounters::replays);
    const Value body = Value::Map{{"stream", cursor.stream}, {"epoch", cursor.epoch}, {"after", cursor.last}};
    session_->replay(body, guarded(cursor, &State::replayed));
  }
}

/// What to do with an answer, if the feed is still there then.
std::function<void(Outcome&&)> KernelFeed::State::guarded(StreamCursor& cursor,
                                                          void (State::*then)(StreamCursor&, const Reply&)) {
  return [weak = weak_from_this(), &cursor, then](Outcome&& outcome) {
    const auto self = weak.lock();
    if (!self || !self->socket_) return;
    try {
      if (outcome.error) throw *outcome.error;
      ((*self).*then)(cursor, *outcome.reply);
    } catch (const Error& error) {
      self->failed(cursor, error);
    }
    self->announce();
  };
}

void KernelFeed::State::took_health(StreamCursor& cursor, const Reply& reply) {
  HealthEvent event;
  event.health = read_body<NodeHealth>(reply.body);
  cursor.jump(cursor.highest);
  static_cast<KernelPosition&>(event) = {reply.instance, cursor.epoch, cursor.last, 0};
  put(std::move(event));
  filled(cursor);
}

void KernelFeed::State::took_peers(StreamCursor& cursor, const Reply& reply) {
  auto peers = read_body<PeersListReply>(reply.body);
  cursor.jump(cursor.highest);
  put(PeersSnapshot{std::move(peers.peers)});
  filled(cursor);
}

void KernelFeed::State::replayed(StreamCursor& cursor, const Reply& reply) {
  const auto page = read_body<StreamReplayReply>(reply.body);
  if (reply.blobs.size() != 2 * std::size_t{page.events}) {
    throw Error(ErrorCode::kBadRequest, "stream.replay: two blobs for each event");
  }
  for (std::size_t index = 0; index < reply.blobs.size(); index += 2) {
    KernelEventFrames frames = decode_kernel_event(reply.blobs[index], reply.blobs[index + 1]);
    if (cursor.replayed(frames.position) == Verdict::kKeep) show(cursor, std::move(frames));
  }
  auto held = cursor.held.take(cursor.instance, cursor.epoch, cursor.last);
  for (KernelEventFrames& frames : held) {
    if (cursor.replayed(frames.position) == Verdict::kKeep) show(cursor, std::move(frames));
  }
  report(cursor);
  if (page.complete || !held.empty()) {
    filled(cursor);
  } else if (page.events == 0) {
    throw Error(ErrorCode::kInternal, "an empty page in a replay of " + cursor.stream);
  } else {
    work();
  }
}

void KernelFeed::State::filled(StreamCursor& cursor) {
  cursor.behind = false;
  count(&FeedCounters::skipped, cursor.held.clear());
  delay_ = kReplayRetry;
  work();
}

void KernelFeed::State::failed(StreamCursor& cursor, const Error& error) {
  if (cursor.is_messages()) {
    const Value* first = error.detail().find("first");
    const auto* oldest = first == nullptr ? nullptr : first->get<std::int64_t>();
    if (error.code() == ErrorCode::kTrimmed && oldest != nullptr && *oldest > static_cast<std::int64_t>(cursor.last) + 1) {
      cursor.give_up(static_cast<std::uint64_t>(*oldest) - 1, "no longer in the kernel's ring");
      report(cursor);
      return work();
    }
    if (error.code() == ErrorCode::kEpochChanged) return ended_replay(cursor, error);
  }
  if (error.retriable()) return work_in(delay_);
  cursor.give_up(cursor.highest, error.what());
  report(cursor);
  filled(cursor);
}

/// The stream has another epoch now. One that is not recorded at all is asked for again later.
void KernelFeed::State::ended_replay(StreamCursor& cursor, const Error& error) {
  try {
    const auto state = read_body<StreamState>(error.detail());
    if (state.epoch == cursor.epoch) return work_in(delay_);
    cursor.restart(session_->instance(), state.epoch, "the kernel restarted this stream");
  } catch (const Error&) {
    return work_in(delay_);
  }
  report(cursor);
  work();
}

void KernelFeed::State::work_in(Milliseconds delay) {
  ++turn_;  // another stream may be luckier
  delay_ = std::min(delay_ * 2, kRetryMax);
  timer_ = session_->loop().after(delay, [this] {
    timer_.reset();
    work();
  });
}

}  // namespace logos
