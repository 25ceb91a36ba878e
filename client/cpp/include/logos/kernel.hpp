// The client of a kernel, for tools and for programs that want the relay without a Messaging API (ipc_schema/SPEC.md, §3).
// It reconnects by itself, repeats its hello and reacquires its leases.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "logos/messaging.hpp"

namespace logos {

/// The sockets of a kernel. The events' endpoint is what the kernel's hello says, if it says one. The control socket is
/// asked whether the kernel is there when its heartbeats are missing; without one the socket for requests is.
struct KernelEndpoints {
  std::string requests;
  std::string events{};
  std::string control{};
};

struct KernelOptions {
  /// The consumer's name (`[a-z0-9._-]{1,64}`): leases belong to it, and its next connection goes on with them.
  std::string name{};
  std::string kind = "tool";  // or `app`, `mapi`
  Milliseconds timeout = kDefaultTimeout;
};

struct PublishOptions {
  std::string pubsub_topic{};  // without it and `shard` the content topic decides
  std::optional<std::uint32_t> shard{};
  std::optional<std::int64_t> timestamp{};  // ns; the kernel's clock without one
  Bytes meta{};
  std::uint32_t version = 0;
  bool ephemeral = false;
  Bytes proof{};
  bool force = false;  // send the same bytes again
  Milliseconds timeout = kDefaultTimeout;
};

struct StoreQuery {
  std::string pubsub_topic{};
  std::vector<std::string> content_topics{};
  std::optional<std::int64_t> time_start{};
  std::optional<std::int64_t> time_end{};
  std::vector<Hash> hashes{};
  std::optional<Hash> cursor{};
  bool forward = true;
  std::uint32_t limit = 20;
  bool include_data = false;
  std::optional<std::uint32_t> max_messages{};
  std::string peer{};
  Milliseconds timeout{30'000};
};

struct StoredMessage {
  Hash message_hash{};
  std::string pubsub_topic{};
  std::string content_topic{};
  std::int64_t timestamp = 0;
  Bytes meta{};
  bool ephemeral = false;
  std::uint32_t version = 0;
  Bytes proof{};
  Bytes payload{};
};

struct StorePage {
  std::string peer{};
  std::vector<Hash> hashes{};
  std::vector<StoredMessage> messages{};  // with `include_data`, those of `hashes`
  std::optional<Hash> cursor{};           // of the next page; none: there is no more
};

struct FeedOptions {
  std::vector<std::uint32_t> shards{};
  bool health = false;
  bool peers = false;
  /// Hold leases on the shards while the feed is open. Without it there is no replay, and no messages unless another
  /// consumer leases them.
  bool lease = true;
  /// Bytes that may be queued here. What does not fit stays in the kernel's ring, and is replayed when there is room.
  std::uint64_t max_bytes = 8 << 20;
  Milliseconds timeout{5'000};
};

/// `skipped`: live events left to a replay. `replays`: requests for one.
struct FeedCounters {
  std::uint64_t received = 0;
  std::uint64_t skipped = 0;
  std::uint64_t replays = 0;
  std::uint64_t garbage = 0;
  std::uint64_t local_dropped = 0;
};

LOGOS_CLIENT_API std::string_view kind_of(const KernelEvent& event);
LOGOS_CLIENT_API Value to_value(const KernelEvent& event);

/// Events of some of the kernel's streams, each in order. A gap in a message stream is filled by a replay, or reported
/// as `StreamLoss`. Made by `KernelClient::events`, which must outlive it. One thread at a time takes events.
class LOGOS_CLIENT_API KernelFeed {
 public:
  ~KernelFeed();
  KernelFeed(KernelFeed&&) noexcept;
  KernelFeed& operator=(KernelFeed&&) noexcept;

  /// The next event. Empty: none can come any more. Throws `Error` (`kDeadlineExceeded`) after `timeout`.
  std::optional<KernelEvent> next_event(std::optional<Milliseconds> timeout = std::nullopt);
  /// Empty: there is none now.
  std::optional<KernelEvent> try_next();
  /// As `MessagingClient::event_fd`.
  [[nodiscard]] int event_fd();
  [[nodiscard]] FeedCounters counters() const;
  /// Unsubscribe and release the leases.
  void close();

 private:
  friend class KernelClient;
  class State;
  explicit KernelFeed(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

/// A consumer of a kernel, with a thread of its own for the sockets. Methods may be called from any thread.
class LOGOS_CLIENT_API KernelClient {
 public:
  /// `where`: a node's run directory. Throws `Error` as `MessagingClient`.
  explicit KernelClient(const std::string& where, const KernelOptions& options = {});
  explicit KernelClient(const KernelEndpoints& endpoints, const KernelOptions& options = {});
  ~KernelClient();
  KernelClient(KernelClient&&) noexcept;
  KernelClient& operator=(KernelClient&&) noexcept;

  [[nodiscard]] bool connected() const;
  [[nodiscard]] KernelHello hello() const;

  /// Publish a message. Throws `Error`: `kNoPeers` (`detail` has message_hash and timestamp; local readers get it all the
  /// same), `kTooLarge`, `kBadRequest`, `kPeerRestarted` (publishing again with the same timestamp is safe).
  RelayPublishReply publish(const std::string& content_topic, BytesView payload, const PublishOptions& options = {});
  /// Ask a store: one page, or up to `max_messages`.
  StorePage store_query(const StoreQuery& query);
  /// Pubsub topic → peers subscribed to it, or in its mesh.
  std::map<std::string, std::vector<std::string>> relay_peers(const std::string& pubsub_topic = {});
  std::map<std::string, std::vector<std::string>> mesh(const std::string& pubsub_topic = {});
  std::vector<PeerRecord> peers();
  std::vector<ConnectResult> connect_peers(const std::vector<std::string>& addresses,
                                           Milliseconds timeout = Milliseconds{30'000});
  bool disconnect_peer(const std::string& peer_id);
  NodeHealth health();
  Value info(const std::vector<std::string>& ids = {});

  /// Make the kernel join shards and record them, until `release` or the end; renewed by itself, counted per shard.
  std::vector<StreamState> lease(const std::vector<std::uint32_t>& shards, Milliseconds timeout = kDefaultTimeout);
  void release(const std::vector<std::uint32_t>& shards, Milliseconds timeout = kDefaultTimeout);

  /// A feed of events, whose subscriptions are in force when this returns. Throws `Error` (`kNotReady`) otherwise.
  KernelFeed events(const FeedOptions& options);

  /// Any method of the contract.
  Reply call(const std::string& method, const Value& body = Value::Map{}, const std::vector<BytesView>& blobs = {},
             Milliseconds timeout = kDefaultTimeout);

  /// End the feeds, release the leases, disconnect.
  void close();

 private:
  friend class KernelFeed;
  class Session;
  std::shared_ptr<Session> session_;
};

}  // namespace logos
