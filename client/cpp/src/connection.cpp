#include "connection.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <limits>
#include <stdexcept>
#include <system_error>

namespace logos {
namespace {

constexpr std::size_t kBatch = 256;  // messages before timers and other sockets have their turn
constexpr std::size_t kMaxFrames = 4096 + 4;
constexpr std::int64_t kMaxFrame = 64 << 20;
constexpr std::string_view kHelloFirst = "hello first";

bool wants_hello(const std::optional<Error>& error) {
  return error && error->code() == ErrorCode::kNotReady && error->message().ends_with(kHelloFirst);
}

BytesView view(const zmq::message_t& part) { return {part.data<std::uint8_t>(), part.size()}; }

}  // namespace

Error closed_error() { return {ErrorCode::kNotReady, "the client is closed", false}; }
Error late_error(std::string_view method) {
  return {ErrorCode::kDeadlineExceeded, std::string(method) + ": no answer in time"};
}

Id random_id() {
  // Not std::random_device: the instruction that it uses takes tens of microseconds in some virtual machines.
  Id id;
  if (::getentropy(id.data(), id.size()) != 0) throw std::system_error(errno, std::generic_category(), "getentropy");
  return id;
}

Connection::Connection(Loop& loop, std::string endpoint, Handlers handlers)
    : loop_(loop), endpoint_(std::move(endpoint)), handlers_(std::move(handlers)), reconnect_delay_(kReconnect),
      id_prefix_(random_id()) {
  random_.seed(id_prefix_[0] << 8 | id_prefix_[1]);
}

void Connection::open() {
  socket_ = zmq::socket_t(loop_.context, zmq::socket_type::dealer);
  // libzmq must not reconnect: requests for a server that is gone would reach its successor. Its option against this,
  // `immediate`, ends the pipe of a lost connection at any read, also between two frames of a message, and aborts the process
  // then (4.3.5: fq.cpp, `!_more`); and so does the -1 that it has for "never" (§1).
  socket_.set(zmq::sockopt::reconnect_ivl, std::numeric_limits<int>::max());
  socket_.set(zmq::sockopt::linger, kDealerLinger);
  socket_.set(zmq::sockopt::handshake_ivl, 5000);
  socket_.set(zmq::sockopt::maxmsgsize, kMaxFrame);
  const std::string inside = "inproc://monitor-" + to_hex(id_prefix_);
  if (zmq_socket_monitor(socket_.handle(), inside.c_str(),
                         ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CONNECT_RETRIED) != 0) {
    throw zmq::error_t();
  }
  monitor_ = zmq::socket_t(loop_.context, zmq::socket_type::pair);
  monitor_.set(zmq::sockopt::linger, 0);
  monitor_.connect(inside);
  try {
    socket_.connect(endpoint_);
  } catch (const zmq::error_t& error) {
    close();
    throw std::invalid_argument(endpoint_ + " is not an endpoint: " + error.what());
  }
  heard_ = spoke_ = Clock::now();
  loop_.watch(socket_, [this] { drain(kBatch); });
  loop_.watch(monitor_, [this] { watch_link(); });
  if (!handlers_.keepalive.empty()) arm(tick_, kTick, [this] { check_alive(); });
}

void Connection::close() {
  if (state_ == State::kClosed) return;
  set_state(State::kClosed);
  disarm(hello_timer_);
  disarm(full_timer_);
  disarm(reconnect_timer_);
  disarm(tick_);
  while (!pending_.empty()) fail(pending_.begin()->second, closed_error());
  pump();
  if (monitor_) loop_.unwatch(monitor_);
  if (socket_) {
    loop_.unwatch(socket_);
    zmq_socket_monitor(socket_.handle(), nullptr, 0);
  }
  monitor_.close();
  socket_.close();
}

void Connection::set_state(State state) {
  state_ = state;
  ready_.store(state == State::kReady, std::memory_order_release);
}

void Connection::arm(std::optional<Loop::Timer>& timer, Clock::duration delay, Loop::Work work) {
  disarm(timer);
  timer = loop_.after(delay, [&timer, work = std::move(work)] {
    timer.reset();
    work();
  });
}

void Connection::disarm(std::optional<Loop::Timer>& timer) {
  if (timer) loop_.cancel(*timer);
  timer.reset();
}

// -- requests ----------------------------------------------------------------------------------------------------------

void Connection::request(std::shared_ptr<Request> request) {
  open_.fetch_add(1, std::memory_order_relaxed);
  request->timer = loop_.at(request->deadline, [this, request] { expire(request); });
  request->place = waiting_.insert(waiting_.end(), request);
  pump();
}

/// Send what waits, as far as the connection and the number of requests in flight allow; or end it.
void Connection::pump() {
  while (!waiting_.empty()) {
    const auto request = waiting_.front();
    if (state_ == State::kClosed) {
      fail(request, closed_error());
    } else if (state_ == State::kFailed) {
      fail(request, *failure_);
    } else if (state_ != State::kReady) {
      return;
    } else if (request->method.empty()) {
      settle(request, {Reply{}, std::nullopt});
    } else if (pending_.size() >= in_flight_ || full_timer_ || !write(*request)) {
      return;
    }
  }
}

/// False: the socket takes nothing now.
bool Connection::write(Request& request) {
  const auto left = std::chrono::duration_cast<Milliseconds>(request.deadline - Clock::now()).count();
  const auto budget = std::clamp<std::uint64_t>(left < 1 ? 1 : static_cast<std::uint64_t>(left), 1, 3'600'000);
  const Id id = new_id();
  if (!put(encode_request_header(id, request.method, budget, 0), request.body, request.blobs)) {
    arm(full_timer_, kFullRetry, [this] { pump(); });
    return false;
  }
  request.id = id;
  request.sent = true;
  request.waiting = false;
  pending_.emplace(id, *request.place);
  waiting_.erase(request.place);
  return true;
}

bool Connection::put(const Bytes& header, const Bytes& body, std::span<const Bytes> blobs) {
  const auto send = [&](BytesView frame, bool more) {
    const auto flags = zmq::send_flags::dontwait | (more ? zmq::send_flags::sndmore : zmq::send_flags::none);
    return socket_.send(zmq::const_buffer(frame.data(), frame.size()), flags).has_value();
  };
  try {
    // Only the first frame can be refused: those behind it belong to a message that was begun.
    if (!send(as_bytes(kMagic), true)) return false;
    send(header, true);
    send(body, !blobs.empty());
    for (std::size_t index = 0; index < blobs.size(); ++index) send(blobs[index], index + 1 < blobs.size());
  } catch (const zmq::error_t&) {
    return false;
  }
  spoke_ = Clock::now();
  return true;
}

bool Connection::tell(std::string_view method, const Value& body) {
  return ready() && put(encode_request_header(new_id(), method, 0, kNoReply), pack(body), {});
}

Id Connection::new_id() {
  Id id = id_prefix_;
  ++ids_;
  for (std::size_t at = 0; at < 8; ++at) id[8 + at] = static_cast<std::uint8_t>(ids_ >> (56 - 8 * at));
  return id;
}

void Connection::expire(const std::shared_ptr<Request>& request) {
  request->timer.reset();
  if (!request->waiting || (ready() && !request->method.empty())) {
    fail(request, late_error(request->method));
  } else if (request->sent) {
    fail(request, {ErrorCode::kPeerRestarted, request->method + ": the connection was lost; the outcome is unknown"});
  } else if (put_off_ && put_off_->code() == ErrorCode::kConflict) {
    fail(request, *put_off_);  // still so at the end of the wait
  } else {
    fail(request, {ErrorCode::kNotReady, "no answer from " + endpoint_ + " in time" + hint()});
  }
  pump();
}

std::string Connection::hint() const {
  if (!strange_) {
    std::error_code ignored;
    // Not `!exists`, which is also true where we may not look (a directory of another user).
    const bool gone = endpoint_.starts_with("ipc://") && std::filesystem::status(endpoint_.substr(6), ignored).type() ==
                                                             std::filesystem::file_type::not_found;
    const std::string state = state_ == State::kGreeting ? " (greeting" : " (connecting";
    return state + (gone ? "; there is no such socket)" : ")");
  }
  return ": what listens there takes no requests (an events socket, or no server of this contract), is full, or turns "
         "this user away (allowed-uid)";
}

void Connection::settle(const std::shared_ptr<Request>& kept, Outcome&& outcome) {
  const std::shared_ptr<Request> request = kept;  // the caller's may be the one in a container
  if (request->timer) loop_.cancel(*request->timer);
  request->timer.reset();
  if (request->waiting) {
    waiting_.erase(request->place);
  } else {
    pending_.erase(request->id);
  }
  open_.fetch_sub(1, std::memory_order_relaxed);
  const auto done = std::move(request->done);
  done(std::move(outcome));
}

// -- what comes in -----------------------------------------------------------------------------------------------------

void Connection::drain(std::size_t most) {
  for (std::size_t count = 0; count < most && socket_ && receive(); ++count) {
  }
  if (handlers_.drained) handlers_.drained();
  pump();
}

/// False: there is nothing.
bool Connection::receive() {
  std::size_t count = 0;
  for (bool more = true; more; ++count) {
    if (parts_.size() <= count) parts_.emplace_back();
    if (!socket_.recv(parts_[count], zmq::recv_flags::dontwait)) return false;
    more = parts_[count].more();
    if (count > kMaxFrames) --count;  // no message of the contract: its frames are not kept
  }
  views_.clear();
  for (std::size_t index = 0; index < count; ++index) views_.push_back(view(parts_[index]));
  heard_ = Clock::now();
  if (handlers_.event && is_app_event(views_)) {
    handlers_.event(views_);
  } else {
    handle_reply(views_);
  }
  return true;
}

void Connection::handle_reply(std::span<const BytesView> frames) {
  std::optional<ReplyFrames> reply;
  try {
    reply = decode_reply(frames);
  } catch (const Error&) {
    return;  // garbage
  }
  const bool forgotten = wants_hello(reply->error);
  if (reply->id == hello_) {
    hello_.reset();
    disarm(hello_timer_);
    if (reply->error) {
      hello_failed(*reply->error);
    } else {
      accept(*reply);
    }
  } else if (const auto found = pending_.find(reply->id); found != pending_.end()) {
    const std::shared_ptr<Request> request = found->second;
    if (forgotten) {
      // The server does not know this connection, so it did nothing: the request may go out again.
      pending_.erase(found);
      request->waiting = true;
      request->place = waiting_.insert(waiting_.begin(), request);
    } else if (reply->error) {
      fail(request, *reply->error);
    } else {
      Reply answer{std::move(reply->body), {}, reply->instance};
      for (const BytesView blob : frames.subspan(reply->first_blob)) answer.blobs.emplace_back(blob.begin(), blob.end());
      settle(request, {std::move(answer), std::nullopt});
    }
  }
  if (state_ == State::kClosed) return;
  if (meet(reply->instance) && ready()) {
    lose("the server was restarted");
    connected();
  } else if (forgotten && ready()) {
    lose("the server does not know this connection any more");
    connected();
  }
}

/// Note who answers. True: another instance than before.
bool Connection::meet(const Id& instance) {
  const bool other = instance_ && *instance_ != instance;
  instance_ = instance;
  return other;
}

}  // namespace logos
