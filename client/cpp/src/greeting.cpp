// How a connection comes and goes: what the socket's monitor says, reconnects, hello, silence.
#include <algorithm>
#include <cstring>

#include "connection.hpp"

namespace logos {
namespace {

using namespace std::chrono_literals;

constexpr auto kHelloTimeout = 3s;
constexpr Clock::duration kHelloRetry = 100ms;
constexpr Clock::duration kHelloRetryMax = 2s;
constexpr Clock::duration kRefusedRetry = 5s;
/// A server may take the connection of our own dead predecessor for a live one, until its next heartbeat.
constexpr auto kConflictGrace = 3s;
constexpr auto kSilence = 4s;  // without a word from the server: ask whether it still knows us
constexpr auto kIdle = 10s;    // without a word from us: the server gives us up after 30 s
constexpr Clock::duration kReconnectMax = 250ms;
/// The same where connections end before their handshake: waiting a moment does not change what listens there.
constexpr Clock::duration kStrangeMax = 3200ms;

}  // namespace

void Connection::watch_link() {
  zmq::message_t event;
  zmq::message_t address;
  while (monitor_ && monitor_.recv(event, zmq::recv_flags::dontwait)) {
    if (!event.more() || !monitor_.recv(address)) continue;
    std::uint16_t kind = 0;
    std::memcpy(&kind, event.data(), sizeof kind);
    noticed(kind);
  }
}

void Connection::noticed(std::uint16_t kind) {
  if (kind == ZMQ_EVENT_DISCONNECTED) {
    strange_ = !shaken_;
    shaken_ = false;
    disconnected();
  } else if (reconnect_timer_) {
    return;  // it is about a connection that was given up
  } else if (kind == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
    shaken_ = true;
    strange_ = false;
    reconnect_delay_ = kReconnect;
    connected();
  } else {
    strange_ = false;  // nothing listens there
    reconnect();
  }
}

void Connection::connected() {
  if (state_ != State::kClosed) greet();
}

void Connection::disconnected() {
  if (state_ == State::kClosed) return;
  drain(SIZE_MAX);  // replies that came before the loss
  if (state_ == State::kClosed) return;
  failure_.reset();
  reconnect();
  lose("the connection was lost");
}

/// Drop the connection, with all that is queued for its server, and make another one soon.
void Connection::reconnect() {
  if (state_ == State::kClosed || reconnect_timer_) return;
  socket_.disconnect(endpoint_);
  std::uniform_int_distribution<Clock::rep> share(0, kReconnect.count());
  const Clock::duration longest = strange_ ? kStrangeMax : kReconnectMax;
  arm(reconnect_timer_, std::min(reconnect_delay_, longest) + Clock::duration(share(random_)), [this] {
    zmq::message_t about_the_one_before;
    while (monitor_.recv(about_the_one_before, zmq::recv_flags::dontwait)) {
    }
    socket_.connect(endpoint_);
  });
  reconnect_delay_ = std::min(reconnect_delay_ * 2, longest);
}

/// What was asked on this connection has no answer any more, and nothing of it may reach a successor.
void Connection::lose(const std::string& reason) {
  const bool was_ready = ready();
  set_state(State::kConnecting);
  hello_.reset();
  disarm(hello_timer_);
  disarm(full_timer_);
  auto pending = std::move(pending_);
  pending_.clear();
  auto front = waiting_.begin();
  for (auto& [id, request] : pending) {
    request->waiting = true;
    request->place = waiting_.insert(front, request);
  }
  for (auto& [id, request] : pending) {
    if (!request->repeat) fail(request, {ErrorCode::kPeerRestarted, reason});
  }
  if (was_ready) handlers_.down(reason);
}

void Connection::greet() {
  set_state(State::kGreeting);
  hello_delay_ = kHelloRetry;
  send_hello();
}

void Connection::send_hello() {
  hello_ = new_id();
  const auto header =
      encode_request_header(*hello_, "hello", std::chrono::milliseconds(kHelloTimeout).count(), 0);
  if (!put(header, pack(handlers_.hello()), {})) {
    hello_.reset();
    arm(hello_timer_, kFullRetry, [this] { send_hello(); });
    return;
  }
  arm(hello_timer_, kHelloTimeout, [this] {
    hello_.reset();
    hello_failed(late_error("hello"));
  });
}

void Connection::hello_failed(const Error& error) {
  if (worth_waiting(error)) {
    put_off_ = error;
    hello_delay_ = std::min(hello_delay_ * 2, kHelloRetryMax);
  } else {
    hello_delay_ = kRefusedRetry;
    refuse(error);
    if (state_ == State::kClosed) return;
  }
  const Clock::duration asked = error.retry_after().value_or(Milliseconds(0));
  arm(hello_timer_, std::max(hello_delay_, asked), [this] { send_hello(); });
}

/// Our hello was accepted. At once: events may stand right behind it.
void Connection::accept(const ReplyFrames& reply) {
  try {
    handlers_.greeted(reply.body, reply.instance);
  } catch (const Error& error) {
    hello_failed(error);
    return;
  }
  meet(reply.instance);
  failure_.reset();
  put_off_.reset();
  conflict_since_.reset();
  greeted_ = true;
  in_flight_ = kDefaultInFlight;
  if (const Value* limits = reply.body.find("limits")) {
    const Value* limit = limits->find("in_flight");
    const auto* number = limit == nullptr ? nullptr : limit->get<std::int64_t>();
    if (number != nullptr && *number > 0) in_flight_ = static_cast<std::size_t>(*number);
  }
  set_state(State::kReady);
  pump();
}

bool Connection::worth_waiting(const Error& error) {
  if (error.code() != ErrorCode::kConflict) return error.retriable();
  const auto now = Clock::now();
  if (!conflict_since_) conflict_since_ = now;
  return now - *conflict_since_ < kConflictGrace;
}

void Connection::refuse(const Error& error) {
  const bool first = !failure_;
  failure_ = error;
  set_state(State::kFailed);
  pump();
  if (first && greeted_) handlers_.down(std::string(error.message()));
}

void Connection::check_alive() {
  arm(tick_, kTick, [this] { check_alive(); });
  const auto now = Clock::now();
  if (!ready() || probing_ || (now - heard_ < kSilence && now - spoke_ < kIdle)) return;
  probing_ = true;
  auto probe = std::make_shared<Request>();
  probe->method = handlers_.keepalive;
  probe->body = pack(Value::Map{});
  probe->deadline = now + kSilence;
  // No answer: a hung server. Its return, or the loss of the connection, is noticed elsewhere.
  probe->done = [this](Outcome&&) { probing_ = false; };
  request(std::move(probe));
}

}  // namespace logos
