#include "session.hpp"

#include <utility>

#include "fields.hpp"

namespace logos {
namespace {

using namespace std::chrono_literals;

constexpr auto kAckDelay = 100ms;  // one ack for all that was handled in this time: of a named app it is a write to disk
constexpr Milliseconds kRetry = 200ms;
constexpr Milliseconds kRetryMax = 5s;
constexpr Milliseconds kLeave = 2s;

Value ack_body(const Position& position) {
  return Value::Map{{"stream", position.stream_id}, {"seq", position.seq}};
}

}  // namespace

MessagingClient::Session::Session(const std::string& endpoint, const ConnectOptions& options)
    : options_(options),
      stream_(options.credit),
      connection_(loop_, endpoint,
                  {.hello = [this] { return hello_body(); },
                   .greeted = [this](const Value& body, const Id&) { greeted(body); },
                   .down = [this](const std::string& reason) { link_lost(reason); },
                   .event = [this](std::span<const BytesView> frames) { receive(frames); },
                   .drained = [this] { if (std::exchange(news_, false)) announce(); },
                   .keepalive = "ping"}),
      caller_(loop_, connection_) {
  try {
    caller_.open(options.timeout);
  } catch (...) {
    close(false);
    throw;
  }
}

MessagingClient::Session::~Session() { close(false); }

void MessagingClient::Session::close(bool handled) {
  std::optional<Position> due;
  bool leave = false;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
    if (handled && !opening_) stream_.handled();
    if (options_.auto_ack) due = stream_.ack_due();
    leave = !taken_over_;
    opening_ = false;  // a segment that was not given back comes again
  }
  if (leave && connection_.ready()) {
    try {
      if (due) (void)caller_.ask("ack", ack_body(*due), {}, kLeave, false);
      (void)caller_.ask("goodbye", Value::Map{}, {}, kLeave, false);
    } catch (const Error&) {
      // A server that is gone: what it did not take comes again.
    }
  }
  loop_.run([this] {
    for (auto* timer : {&ack_timer_, &retry_timer_, &opening_timer_}) {
      if (*timer) loop_.cancel(**timer);
      timer->reset();
    }
    connection_.close();
  });
  loop_.stop();
  const std::lock_guard lock(mutex_);
  update();
}

// -- requests ----------------------------------------------------------------------------------------------------------

void MessagingClient::Session::check_open() {
  const std::lock_guard lock(mutex_);
  if (taken_over_) throw Error(ErrorCode::kConflict, "another connection has taken over this app's name");
  if (closed_) throw closed_error();
}

Reply MessagingClient::Session::ask(std::string method, const Value& body, bool repeat, Milliseconds timeout,
                                    const std::vector<BytesView>& blobs) {
  check_open();
  return caller_.ask(std::move(method), body, blobs, timeout, repeat);
}

void MessagingClient::Session::ask_async(std::string method, const Value& body, bool repeat, Milliseconds timeout,
                                         const std::vector<BytesView>& blobs, std::function<void(Outcome&&)> done) {
  check_open();
  caller_.ask(std::move(method), body, blobs, timeout, repeat, std::move(done));
}

/// Such a frame would cost us the connection: the server's socket refuses it unread.
void MessagingClient::Session::check_payload(BytesView payload) {
  const std::lock_guard lock(mutex_);
  if (payload.size() <= hello_->limits.blob_bytes) return;
  throw Error(ErrorCode::kTooLarge, "Message size exceeded maximum of " +
                                        std::to_string(hello_->network.max_message_size) +
                                        " bytes: the payload alone has " + std::to_string(payload.size()));
}

void MessagingClient::Session::ack(const Position& position, Milliseconds timeout) {
  (void)ask("ack", ack_body(position), false, timeout);
  const std::lock_guard lock(mutex_);
  stream_.acked(position);
}

void MessagingClient::Session::note_topics(const std::vector<std::string>& topics, bool subscribed) {
  const std::lock_guard lock(mutex_);
  for (const std::string& topic : topics) {
    if (subscribed) {
      topics_.insert(topic);
    } else {
      topics_.erase(topic);
    }
  }
}

void MessagingClient::Session::set_hooks(const std::string& channel_id, Hook encrypt, Hook decrypt) {
  if (!encrypt || !decrypt) throw std::invalid_argument("encrypt and decrypt are functions");
  const std::lock_guard lock(mutex_);
  hooks_.set(channel_id, {std::move(encrypt), std::move(decrypt)});
}

void MessagingClient::Session::clear_hooks(const std::string& channel_id) {
  const std::lock_guard lock(mutex_);
  hooks_.clear(channel_id);
}

std::shared_ptr<const HookPair> MessagingClient::Session::hooks_of(const std::string& channel_id) {
  const std::lock_guard lock(mutex_);
  return hooks_.find(channel_id);
}

// -- hello -------------------------------------------------------------------------------------------------------------

Value MessagingClient::Session::hello_body() {
  const std::lock_guard lock(mutex_);
  offered_ = stream_.opening_credit();
  Body body;
  body.with("kind", "app").with("protocol", Value::Array{1, 1}).with_some("name", options_.name);
  // Taking over is for the first hello only: two that both insist would take turns for ever.
  body.with("takeover", options_.takeover && !hello_).with("credit", offered_);
  if (hello_ && stream_.last_seq() > 0) {
    // By what was seen a server notices that an older state of its database was put back.
    const Position seen = stream_.last_position();
    Body last;
    last.with("stream", seen.stream_id).with("seq", seen.seq).with("instance", hello_->instance);
    body.with("seen", std::move(last));
  }
  return Value(std::move(body));
}

void MessagingClient::Session::greeted(const Value& body) {
  const Value* server = body.find("server");
  const auto* name = server == nullptr ? nullptr : server->get<std::string>();
  if (name != nullptr && name->starts_with("logos-kernel/")) {
    throw Error(ErrorCode::kBadRequest, "this is a kernel (" + *name + "); apps connect to a Messaging API: …/mapi/apps");
  }
  auto hello = read_body<MapiHello>(body);
  if (hello.protocol != 1) throw Error(ErrorCode::kBadRequest, "hello: the reply has another protocol version");
  std::unique_lock lock(mutex_);
  const bool first = !hello_;
  const auto lost = stream_.greeted(hello.stream.id, hello.stream.acked, offered_);
  if (!lost_) lost_ = lost;
  status_ = hello.status;
  hello_ = std::move(hello);
  if (first) {
    topics_.insert(hello_->subscriptions.begin(), hello_->subscriptions.end());
    return;
  }
  std::vector<std::string> missing;
  // A list that goes on behind its end (`more`) is sorted: what lies there is not known to be missing.
  const auto& listed = hello_->subscriptions;
  const std::string* last = hello_->more.value_or(false) && !listed.empty() ? &listed.back() : nullptr;
  const std::set<std::string> known(listed.begin(), listed.end());
  for (const std::string& topic : topics_) {
    if (!known.contains(topic) && (last == nullptr || topic < *last)) missing.push_back(topic);
  }
  lock.unlock();
  if (missing.empty()) {
    restored({});
  } else {
    resubscribe(missing, kRetry);
  }
  loop_.post([this] { settle(); });  // what was handled meanwhile
}

/// Subscribe again to what the Messaging API does not know of us any more.
void MessagingClient::Session::resubscribe(const std::vector<std::string>& topics, Milliseconds delay) {
  auto request = std::make_shared<Request>();
  request->method = "subscribe";
  request->body = pack(Value::Map{{"topics", topics}});
  request->deadline = Clock::now() + kDefaultTimeout;
  request->done = [this, topics, delay](Outcome&& outcome) {
    std::map<std::string, std::string> errors;
    std::optional<Error> failure = std::move(outcome.error);
    if (!failure) {
      try {
        const Value* said = outcome.reply->body.find("errors");
        if (said != nullptr) read(*said, errors, Field{}, "errors");
      } catch (const Error& error) {
        failure = error;
      }
    }
    if (failure) {
      if (failure->code() == ErrorCode::kPeerRestarted || !connection_.ready()) return;  // the next hello does it
      if (failure->retriable()) {
        if (retry_timer_) loop_.cancel(*retry_timer_);
        retry_timer_ = loop_.after(delay, [this, topics, delay] {
          retry_timer_.reset();
          resubscribe(topics, std::min(delay * 2, kRetryMax));
        });
        return;
      }
      for (const std::string& topic : topics) errors[topic] = failure->what();
    }
    restored(std::move(errors));
  };
  connection_.request(std::move(request));
}

void MessagingClient::Session::restored(std::map<std::string, std::string> errors) {
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [topic, reason] : errors) topics_.erase(topic);
    LinkRestored event;
    event.resumed = !lost_;
    if (lost_) event.lost_stream = lost_->stream_id;
    event.last_seq = lost_ ? lost_->seq : stream_.last_seq();
    event.subscription_errors = std::move(errors);
    stream_.put_local(std::move(event));
    lost_.reset();
  }
  announce();
}

void MessagingClient::Session::link_lost(const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    if (!hello_ || taken_over_ || closed_) return;
    stream_.put_local(LinkLost{reason});
  }
  announce();
}

/// Wake the callers that wait for events. Without the lock: a callback may take them.
void MessagingClient::Session::announce() {
  bool news = false;
  {
    const std::lock_guard lock(mutex_);
    news = update();
  }
  if (news && callback_) callback_();
}

// -- events ------------------------------------------------------------------------------------------------------------

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
