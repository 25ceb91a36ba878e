// An app's events: from the stream to the app, hooks on the way, credit and acks.
#include <utility>

#include "session.hpp"

namespace logos {
namespace {

using namespace std::chrono_literals;

constexpr auto kAckDelay = 100ms;  // one ack for all that was handled in this time: of a named app it is a write to disk

}  // namespace

void MessagingClient::Session::receive(std::span<const BytesView> frames) {
  std::optional<AppEventFrames> decoded;
  try {
    decoded = decode_app_event(frames);
  } catch (const Error&) {
  }
  const std::uint64_t cost = frames[1].size() + (frames.size() > 2 ? frames[2].size() : 0);
  bool over = false;
  bool due = false;
  {
    const std::lock_guard lock(mutex_);
    if (!decoded) {
      stream_.count_garbage();
      return;
    }
    if (decoded->event) {
      note_status(*decoded->event);
      over = std::holds_alternative<TakenOver>(*decoded->event);
    }
    if (stream_.receive(std::move(*decoded), cost)) {
      news_ = true;
    } else {
      due = is_due();  // what was dropped gives its credit back too
    }
    if (over) taken_over_ = true;
  }
  if (due) settle();
  if (over) loop_.post([this] { connection_.close(); });
}

void MessagingClient::Session::note_status(const Event& event) {
  if (const auto* change = std::get_if<ConnectionStatusChange>(&event)) {
    status_.connection = change->status;
    status_.reason = change->reason;
  } else if (const auto* health = std::get_if<ContentTopicHealthChange>(&event)) {
    status_.topics[health->content_topic] = health->health;
  }
}

/// The next event for the app. Segments that it has hooks for are decrypted on the way, without the lock, and given back;
/// what is behind one waits for that.
std::optional<Event> MessagingClient::Session::take(std::unique_lock<std::mutex>& lock) {
  while (!opening_) {
    auto event = stream_.take();
    if (stream_.empty()) update();
    if (is_due() && !posted_) posted_ = loop_.post([this] { settle(); });
    const auto* segment = event ? std::get_if<ChannelSegmentReceived>(&*event) : nullptr;
    const auto hooks = segment == nullptr ? nullptr : hooks_.find(segment->channel_id);
    if (!hooks) return event;
    opening_ = true;
    update();
    lock.unlock();
    give_back(std::make_shared<const OpenedSegment>(open_segment(*hooks, *segment)), kRetry);
    lock.lock();
  }
  return std::nullopt;
}

/// Until the Messaging API has it the segment does not count as handled, and comes again after an end of either side.
/// Given back twice, it does no harm.
void MessagingClient::Session::give_back(std::shared_ptr<const OpenedSegment> opened, Milliseconds delay) {
  std::vector<BytesView> blobs;
  if (opened->content) blobs.emplace_back(*opened->content);
  caller_.ask("channel.opened", opened->body, blobs, kDefaultTimeout, true, [this, opened, delay](Outcome&& outcome) {
    if (outcome.error && outcome.error->retriable()) {
      opening_timer_ = loop_.after(delay, [this, opened, delay] {
        opening_timer_.reset();
        give_back(opened, std::min(delay * 2, kRetryMax));
      });
      return;
    }
    // Another error: closed or forgotten. A channel that is opened again gives its segments again.
    {
      const std::lock_guard lock(mutex_);
      opening_ = false;
      if (closed_) {
        update();
        return;
      }
      stream_.handled();
    }
    settle();
    announce();
  });
}

bool MessagingClient::Session::is_due() const {
  if (closed_ || taken_over_) return false;
  return stream_.credit_due() || (options_.auto_ack && !ack_armed_ && stream_.ack_due());
}

/// Give credit back, and see to it that an ack follows soon.
void MessagingClient::Session::settle() {
  bool later = false;
  {
    const std::lock_guard lock(mutex_);
    posted_ = false;
    if (closed_ || taken_over_) return;
    if (const auto total = stream_.credit_due()) {
      if (connection_.tell("credit", Value::Map{{"total", *total}})) {
        stream_.granted(*total);
      } else {
        later = connection_.ready();  // a full socket; a new connection begins with new credit
      }
    }
    if (options_.auto_ack && !ack_armed_ && stream_.ack_due()) later = ack_armed_ = true;
  }
  if (later) settle_later();
}

void MessagingClient::Session::settle_later() {
  if (ack_timer_) return;
  ack_timer_ = loop_.after(kAckDelay, [this] {
    ack_timer_.reset();
    {
      const std::lock_guard lock(mutex_);
      ack_armed_ = false;
      const auto due = options_.auto_ack && !closed_ && !taken_over_ ? stream_.ack_due() : std::nullopt;
      if (due && connection_.tell("ack", ack_body(*due))) stream_.acked(*due);
    }
    if (connection_.ready()) settle();
  });
}

std::optional<Event> MessagingClient::Session::next(std::optional<Milliseconds> timeout) {
  if (loop_.here()) throw std::logic_error("a callback runs on the client's thread and cannot wait for it");
  std::unique_lock lock(mutex_);
  return inbox_.wait(lock, timeout, [&] { return take(lock); }, [this] { return at_end(); });
}

std::optional<Event> MessagingClient::Session::try_next() {
  std::unique_lock lock(mutex_);
  return take(lock);
}

bool MessagingClient::Session::ended() {
  const std::lock_guard lock(mutex_);
  return at_end();
}

int MessagingClient::Session::event_fd() {
  const std::lock_guard lock(mutex_);
  return inbox_.descriptor();
}

void MessagingClient::Session::on_events(std::function<void()> callback) {
  loop_.run([&] {
    callback_ = std::move(callback);
    bool news = false;
    {
      const std::lock_guard lock(mutex_);
      news = !stream_.empty();
    }
    if (news && callback_) callback_();  // those that came before it
  });
}

}  // namespace logos
