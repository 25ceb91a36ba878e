#include "session.hpp"

#include <utility>

#include "fields.hpp"

namespace logos {
namespace {

using namespace std::chrono_literals;

constexpr Milliseconds kLeave = 2s;

}  // namespace

Value MessagingClient::Session::ack_body(const Position& position) {
  return Value::Map{{"stream", position.stream_id}, {"seq", position.seq}};
}

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

void MessagingClient::Session::check_payload(BytesView payload) {
  const std::lock_guard lock(mutex_);
  check_size(payload.size(), hello_->limits.blob_bytes, hello_->network);
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

}  // namespace logos
