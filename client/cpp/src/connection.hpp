// One DEALER to a server of the contract: hello, concurrent requests, reconnect (ipc_schema/SPEC.md, §2).
//
// States: connecting (no server, or a lost one) → greeting (hello is on its way) → ready → connecting …; failed is a server
// that is there and refuses our hello: requests fail with its reason, hello is tried again slowly. closed is final.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "frames.hpp"
#include "logos/messaging.hpp"
#include "loop.hpp"

namespace logos {

inline constexpr std::size_t kDefaultInFlight = 64;  // until the hello says how many
inline constexpr std::chrono::seconds kTick{1};
inline constexpr Milliseconds kFullRetry{5};
/// Until the next attempt to connect, which double; up to the first more at random. A server lets in a few dozen clients at a
/// time, and after a restart all come at once (§1).
inline constexpr Clock::duration kReconnect = Milliseconds(50);
/// Milliseconds. Not 0: libzmq 4.3.5 aborts the process (session_base.cpp, `clean_pipes`) if it learns in one go that a socket
/// was closed without linger and that its server died in the middle of a message to it.
inline constexpr int kDealerLinger = 100;

/// A request to be made. Without a method it ends as soon as the connection is ready.
struct Request {
  std::string method;
  Bytes body;  // packed
  std::vector<Bytes> blobs;
  Clock::time_point deadline;
  /// Done twice it is done once: a lost connection is no reason to give up.
  bool repeat = false;
  std::function<void(Outcome&&)> done;

  // Of the connection.
  bool sent = false;
  bool waiting = true;
  Id id{};
  std::optional<Loop::Timer> timer;
  std::list<std::shared_ptr<Request>>::iterator place{};
};

class Connection {
 public:
  struct Handlers {
    /// The body of a hello, made for each.
    std::function<Value()> hello;
    /// A hello was accepted; runs before any event behind it is seen. An `Error` that it throws counts as a refusal.
    std::function<void(const Value& body, const Id& instance)> greeted;
    /// A connection that was ready is lost, or refused.
    std::function<void(const std::string& reason)> down;
    /// The frames of an event of the app's stream.
    std::function<void(std::span<const BytesView> frames)> event;
    /// No more events for now.
    std::function<void()> drained;
    /// A request without effect, for long silences; empty: none.
    std::string keepalive;
  };

  /// All on the loop's thread, but for the constructor, `ready` and `idle`.
  Connection(Loop& loop, std::string endpoint, Handlers handlers);
  ~Connection() { close(); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Throws `std::invalid_argument` if it is not an endpoint.
  void open();
  void close();
  /// An event that the socket's monitor reports (zmq_socket_monitor(3)).
  void noticed(std::uint16_t kind);
  void request(std::shared_ptr<Request> request);
  /// A request whose success is not waited for; lost with the connection. False: it cannot be sent now.
  bool tell(std::string_view method, const Value& body);
  [[nodiscard]] bool ready() const { return ready_.load(std::memory_order_acquire); }
  /// Whether no request is under way. From any thread.
  [[nodiscard]] bool idle() const { return open_.load(std::memory_order_relaxed) == 0; }
  [[nodiscard]] std::size_t waiting() const { return waiting_.size(); }

 private:
  enum class State { kConnecting, kGreeting, kReady, kFailed, kClosed };

  void set_state(State state);
  void pump();
  bool write(Request& request);
  bool put(const Bytes& header, const Bytes& body, std::span<const Bytes> blobs);
  void expire(const std::shared_ptr<Request>& request);
  void settle(const std::shared_ptr<Request>& request, Outcome&& outcome);
  void fail(const std::shared_ptr<Request>& request, const Error& error) { settle(request, {std::nullopt, error}); }

  void drain(std::size_t most);
  bool receive();
  void handle_reply(std::span<const BytesView> frames);
  bool meet(const Id& instance);

  void watch_link();
  void connected();
  void disconnected();
  void reconnect();
  void lose(const std::string& reason);
  void greet();
  void send_hello();
  void hello_failed(const Error& error);
  void accept(const ReplyFrames& reply);
  [[nodiscard]] bool worth_waiting(const Error& error);
  void refuse(const Error& error);
  void check_alive();
  void arm(std::optional<Loop::Timer>& timer, Clock::duration delay, Loop::Work work);
  void disarm(std::optional<Loop::Timer>& timer);
  [[nodiscard]] std::string hint() const;
  Id new_id();

  Loop& loop_;
  std::string endpoint_;
  Handlers handlers_;
  zmq::socket_t socket_;
  zmq::socket_t monitor_;
  State state_ = State::kConnecting;
  std::atomic<bool> ready_ = false;
  std::atomic<std::size_t> open_ = 0;  // requests in waiting_ and pending_
  std::list<std::shared_ptr<Request>> waiting_;
  std::map<Id, std::shared_ptr<Request>> pending_;
  std::vector<zmq::message_t> parts_;
  std::vector<BytesView> views_;
  std::size_t in_flight_ = kDefaultInFlight;
  std::optional<Id> instance_;
  std::optional<Id> hello_;
  std::optional<Error> failure_;
  std::optional<Error> put_off_;
  std::optional<Clock::time_point> conflict_since_;
  Clock::duration hello_delay_{};
  std::optional<Loop::Timer> hello_timer_;
  std::optional<Loop::Timer> full_timer_;
  std::optional<Loop::Timer> reconnect_timer_;  // until then the socket has no connection
  Clock::duration reconnect_delay_;
  std::minstd_rand random_;
  std::optional<Loop::Timer> tick_;
  Clock::time_point heard_;
  Clock::time_point spoke_;
  bool probing_ = false;
  bool greeted_ = false;
  bool shaken_ = false;   // hands: the server's socket is of the right kind
  bool strange_ = false;  // it is not
  Id id_prefix_{};
  std::uint64_t ids_ = 0;
};

/// 16 random bytes.
Id random_id();
Error closed_error();
Error late_error(std::string_view method);

}  // namespace logos
