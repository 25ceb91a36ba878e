// The client of a Messaging API: subscribe, send, and one ordered stream of events with byte credit, acks and resumption
// (ipc_schema/SPEC.md, §4). It reconnects by itself.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "logos/contract.hpp"
#include "logos/error.hpp"

namespace logos {

using Milliseconds = std::chrono::milliseconds;
inline constexpr Milliseconds kDefaultTimeout{10'000};

/// Everything of a stream up to `seq`.
struct Position {
  Id stream_id{};
  std::uint64_t seq = 0;
  friend bool operator==(const Position&, const Position&) = default;
};

/// What happened to events on their way in.
struct StreamCounters {
  std::uint64_t received = 0;
  std::uint64_t duplicates = 0;
  std::uint64_t garbage = 0;
  std::uint64_t unknown = 0;  // kinds of later versions
  std::uint64_t missing = 0;  // never received, and reported as `EventsDropped`
  std::uint64_t local_dropped = 0;
};

struct ConnectOptions {
  /// A durable app (`[a-z0-9._-]{1,64}`): its subscriptions, stream and position outlive this program. Without a name
  /// the app ends with its connection.
  std::string name{};
  /// End another live connection of that name.
  bool takeover = false;
  /// Bytes of events that may be queued here or be on their way.
  std::uint64_t credit = 2 << 20;
  /// Acknowledge an event when the next one is asked for. False leaves it to `ack`.
  bool auto_ack = true;
  /// How long to wait for the Messaging API.
  Milliseconds timeout = kDefaultTimeout;
};

struct SubscribeOptions {
  bool since_last = false;     // also what came since this app unsubscribed from the topic
  Milliseconds history{0};     // also what came in the last so long
  Milliseconds timeout = kDefaultTimeout;
};

struct SendOptions {
  bool ephemeral = false;
  Bytes meta{};
  /// The idempotency key; without one a new one is made.
  std::optional<Id> request_id{};
  /// Across reconnects the send is repeated under its id for so long.
  Milliseconds timeout = kDefaultTimeout;
};

struct ChannelOptions {
  std::string sender_id{};
  std::string profile{};      // `reference` (default), `raw`, `js`
  std::vector<Hash> keys{};   // of 32 bytes; the first encrypts
  bool keep_keys = false;     // stored, so that the channel opens by itself after a restart
  double parity = 0;          // parity segments per data segment, 0 to 1
  bool hooks = false;         // instead of keys, the functions of `set_channel_encryption`; only with `reference`
  Milliseconds timeout = kDefaultTimeout;
};

/// Encrypts or decrypts one segment of a payload for a channel. What it throws says why it failed.
using Hook = std::function<Bytes(BytesView segment)>;

/// The body of a reply, and its blobs.
struct Reply {
  Value body;
  std::vector<Bytes> blobs;
  Id instance{};
};

/// The reply to an asynchronous request: `error` is set, or `reply`.
struct Outcome {
  std::optional<Reply> reply;
  std::optional<Error> error;
};

/// A new idempotency key: 16 random bytes.
LOGOS_CLIENT_API Id new_request_id();
/// Positions of events; empty for those of the client's own.
LOGOS_CLIENT_API std::optional<Position> position_of(const Event& event);
/// `message_received`, …
LOGOS_CLIENT_API std::string_view kind_of(const Event& event);
/// An event as a map: `event` (its kind), then its fields under the contract's names.
LOGOS_CLIENT_API Value to_value(const Event& event);

/// An app's connection to a Messaging API, with a thread of its own for the socket.
///
/// All methods may be called from any thread, except that one thread at a time takes events (`next_event`, `try_next`,
/// `events`). Methods that wait throw `Error`, and `std::logic_error` from within a callback, which runs on the client's
/// thread. A client does not survive a fork.
class LOGOS_CLIENT_API MessagingClient {
 public:
  /// Connect. `where`: `ipc://…`, `tcp://…`, or a node's run directory.
  ///
  /// Throws `Error`: `kNotReady` (none there in time), `kConflict` (the name is in use), `kBadRequest`,
  /// `kUnsupportedVersion`, `kUnauthorised`.
  explicit MessagingClient(const std::string& where, const ConnectOptions& options = {});
  /// As `close()`.
  ~MessagingClient();
  MessagingClient(MessagingClient&&) noexcept;
  MessagingClient& operator=(MessagingClient&&) noexcept;

  // What is known without a request.

  /// Whether the Messaging API is there now (not whether its node has peers: see `status`).
  [[nodiscard]] bool connected() const;
  /// The last accepted hello: name, limits, network, server, …
  [[nodiscard]] MapiHello hello() const;
  /// The status of the last hello, with what events have changed since.
  [[nodiscard]] StatusReply last_status() const;
  [[nodiscard]] StreamCounters counters() const;
  /// Bytes of events queued here, or held by the app.
  [[nodiscard]] std::uint64_t buffered_bytes() const;

  // Requests.

  /// Topic → why it was refused; the others took effect. A lost connection makes it be asked again.
  std::map<std::string, std::string> subscribe(const std::vector<std::string>& topics,
                                               const SubscribeOptions& options = {});
  /// One topic. Throws `Error` (`kBadRequest`) if it is refused.
  void subscribe(const std::string& topic, const SubscribeOptions& options = {});
  std::map<std::string, std::string> unsubscribe(const std::vector<std::string>& topics,
                                                 Milliseconds timeout = kDefaultTimeout);
  [[nodiscard]] std::vector<std::string> subscriptions(Milliseconds timeout = kDefaultTimeout);

  /// Hand a message over: its request id once it is accepted. What becomes of it follows as events with that id.
  Id send(const std::string& topic, BytesView payload, const SendOptions& options = {});
  Id send(const std::string& topic, std::string_view payload, const SendOptions& options = {}) {
    return send(topic, as_bytes(payload), options);
  }
  /// As `send`, without waiting: `done` is called on the client's thread, with what `send` would throw. Beyond 10,000
  /// requests that wait for their turn, `kBusy`.
  Id send_async(const std::string& topic, BytesView payload, std::function<void(const Outcome&)> done,
                const SendOptions& options = {});

  /// The sends without an outcome, oldest first. `name`: of another named app of the same user.
  [[nodiscard]] PendingReply pending(const std::string& name = {}, Milliseconds timeout = kDefaultTimeout);
  /// A send by its request id, also when it is final: `state` is then sent, unconfirmed, failed or cancelled. None: it was
  /// not accepted, or a day ago, after which ids are forgotten.
  [[nodiscard]] std::optional<PendingSend> find_send(const Id& request_id, const std::string& name = {},
                                                     Milliseconds timeout = kDefaultTimeout);
  /// Cancel a send that was not attempted. False: too late, or there is none.
  bool cancel(const Id& request_id, const std::string& name = {}, Milliseconds timeout = kDefaultTimeout);
  /// The node's status, and the health of each subscribed topic.
  [[nodiscard]] StatusReply status(Milliseconds timeout = kDefaultTimeout);
  /// Facts about the node: Version, MyPeerId, …
  [[nodiscard]] Value node_info(const std::vector<std::string>& ids = {}, Milliseconds timeout = kDefaultTimeout);
  /// Delete a named app of the same user: its stream, its subscriptions, its position.
  void forget(const std::string& name, Milliseconds timeout = kDefaultTimeout);

  /// Acknowledge everything up to an event, or up to the last handled one. For a named app it is on disk then.
  void ack(const Event& event, Milliseconds timeout = kDefaultTimeout);
  void ack(const Position& position, Milliseconds timeout = kDefaultTimeout);
  void ack(Milliseconds timeout = kDefaultTimeout);

  /// Any method of the contract.
  Reply call(const std::string& method, const Value& body = Value::Map{}, const std::vector<BytesView>& blobs = {},
             Milliseconds timeout = kDefaultTimeout);

  // Reliable channels.

  /// Create a channel, or open one that was closed or is locked: our sender id in it. Throws `Error` (`kUnknownMethod`)
  /// where `hooks` are asked for and the Messaging API has none.
  std::string create_channel(const std::string& channel_id, const std::string& topic,
                             const ChannelOptions& options = {});
  [[nodiscard]] bool channel_exists(const std::string& channel_id);
  [[nodiscard]] std::vector<ChannelInfo> channels();
  [[nodiscard]] ChannelStatusReply channel_status(const std::string& channel_id);
  /// A send of a channel by its request id, also when it is final: `end` is then delivered, failed or undelivered. None: it
  /// was not accepted, or ended a day ago, after which ids are forgotten.
  [[nodiscard]] std::optional<PendingChannelSend> find_channel_send(const std::string& channel_id, const Id& request_id);
  /// Stop to receive and send; a named app's stored state stays.
  void close_channel(const std::string& channel_id);
  void forget_channel(const std::string& channel_id);
  /// A payload of up to some 25 MB. `ChannelMessageSent` follows, and one of `ChannelMessageDelivered`,
  /// `ChannelMessageError`, `ChannelDeliveryError` is its end.
  Id send_to_channel(const std::string& channel_id, BytesView payload, const SendOptions& options = {});

  /// Encrypt a channel created with `hooks` by functions of the app, here, in its process. Each takes one segment of a
  /// payload, as the reference's hooks do: `encrypt` on the thread that sends, `decrypt` on the one that takes events. Set
  /// them before events are taken; whether the channel exists does not matter. When `encrypt` throws, the send fails
  /// with `kBadRequest` ("encryption failed: …") and nothing is sent; a segment at which `decrypt` throws comes as
  /// `ChannelMessageLost`. Without hooks the app gets `ChannelSegmentReceived`, and can neither send nor read.
  void set_channel_encryption(const std::string& channel_id, Hook encrypt, Hook decrypt);
  /// Use a channel's hooks no more. Throws `Error` (`kBadRequest`) where there are none.
  void clear_channel_encryption(const std::string& channel_id);

  // Events.

  /// The next event. Asking for it says that the one before it is handled. Empty: none can come any more (closed, taken
  /// over). Throws `Error` (`kDeadlineExceeded`) after `timeout`; without one it waits.
  std::optional<Event> next_event(std::optional<Milliseconds> timeout = std::nullopt);
  /// As `next_event` without waiting. Empty: there is none now.
  std::optional<Event> try_next();
  /// Whether none can come any more.
  [[nodiscard]] bool ended() const;
  /// A file descriptor that is readable while `try_next` has something to give, for the event loops of others
  /// (`QSocketNotifier`, `poll`). It belongs to the client: only wait on it.
  [[nodiscard]] int event_fd();
  /// Call a function on the client's thread when there are events after there were none. It must not block.
  void on_events(std::function<void()> callback);

  class EventRange;
  /// `for (const Event& event : client.events())`, until none can come any more.
  EventRange events();

  /// Acknowledge what was handled (if `auto_ack`) and leave; a named app goes on in the Messaging API. `handled`: the
  /// event given out last was handled too. Else it comes again: the client cannot tell a loop that was left from one
  /// whose body threw.
  void close(bool handled = false);

 private:
  class Session;
  std::unique_ptr<Session> session_;
};

/// Input range over `next_event`.
class MessagingClient::EventRange {
 public:
  class Iterator {
   public:
    using value_type = Event;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;
    Iterator() = default;
    explicit Iterator(MessagingClient* client) : client_(client) { ++*this; }
    Event& operator*() const { return *event_; }
    Event* operator->() const { return &*event_; }
    Iterator& operator++() {
      event_ = client_->next_event();
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const Iterator& it, std::default_sentinel_t) { return !it.event_; }

   private:
    MessagingClient* client_ = nullptr;
    mutable std::optional<Event> event_;
  };

  explicit EventRange(MessagingClient* client) : client_(client) {}
  [[nodiscard]] Iterator begin() const { return Iterator(client_); }
  [[nodiscard]] std::default_sentinel_t end() const { return {}; }

 private:
  MessagingClient* client_;
};

inline MessagingClient::EventRange MessagingClient::events() { return EventRange(this); }

}  // namespace logos
