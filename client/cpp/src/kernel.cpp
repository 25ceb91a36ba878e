#include "logos/kernel.hpp"

#include <algorithm>
#include <stdexcept>

#include "feed.hpp"
#include "fields.hpp"
#include "kernel_session.hpp"

namespace logos {
namespace {

using namespace std::chrono_literals;

constexpr Clock::duration kRenewRetry = 1s;

KernelEndpoints checked(const KernelEndpoints& endpoints, const KernelOptions& options) {
  check_name(options.name);
  return {endpoint_at(endpoints.requests, "kernel/requests"), endpoints.events,
          endpoint_at(endpoints.control.empty() ? endpoints.requests : endpoints.control, "kernel/control")};
}

}  // namespace

// -- the session -------------------------------------------------------------------------------------------------------

KernelClient::Session::Session(KernelEndpoints endpoints, KernelOptions options)
    : endpoints_(std::move(endpoints)),
      options_(std::move(options)),
      connection_(loop_, endpoints_.requests,
                  {.hello =
                       [this] {
                         Body body;
                         body.with("kind", options_.kind).with("protocol", Value::Array{1, 1});
                         body.with_some("name", options_.name);
                         return Value(std::move(body));
                       },
                   .greeted = [this](const Value& body, const Id& instance) { greeted(body, instance); },
                   .down =
                       [this](const std::string& reason) {
                         each_feed([&](KernelFeed::State& feed) { feed.lost(reason); });
                       },
                   .event = {},
                   .drained = {},
                   .keepalive = {}}),
      probe_(loop_),
      caller_(loop_, connection_) {
  try {
    caller_.open(options_.timeout);
  } catch (...) {
    close();
    throw;
  }
}

void KernelClient::Session::close() {
  std::vector<std::shared_ptr<KernelFeed::State>> feeds;
  loop_.run([&] { each_feed([&](KernelFeed::State& feed) { feeds.push_back(feed.shared_from_this()); }); });
  for (const auto& feed : feeds) feed->close();
  std::vector<std::uint32_t> left;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    for (const auto& [shard, count] : held_) left.insert(left.end(), count, shard);
  }
  try {
    if (!left.empty()) release(left, 1s);
  } catch (const Error&) {
    // They lapse.
  }
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  loop_.run([this] {
    if (renewal_) loop_.cancel(*renewal_);
    renewal_.reset();
    probe_.close();
    connection_.close();
  });
  loop_.stop();
}

void KernelClient::Session::check_open() {
  const std::lock_guard lock(mutex_);
  if (closed_) throw closed_error();
}

Reply KernelClient::Session::ask(std::string method, const Value& body, Milliseconds timeout, bool repeat,
                                 const std::vector<BytesView>& blobs) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) throw closed_error();
    for (const BytesView blob : blobs) check_size(blob.size(), hello_->limits.blob_bytes, hello_->network);
  }
  return caller_.ask(std::move(method), body, blobs, timeout, repeat);
}

KernelHello KernelClient::Session::hello() {
  const std::lock_guard lock(mutex_);
  return *hello_;
}

void KernelClient::Session::greeted(const Value& body, const Id& instance) {
  const Value* server = body.find("server");
  const auto* name = server == nullptr ? nullptr : server->get<std::string>();
  if (name != nullptr && name->starts_with("logos-mapi/")) {
    throw Error(ErrorCode::kBadRequest, "this is a Messaging API (" + *name + "), not a kernel");
  }
  auto hello = read_body<KernelHello>(body);
  if (hello.protocol != 1) throw Error(ErrorCode::kBadRequest, "hello: the reply has another protocol version");
  const bool restarted = instance != instance_;
  instance_ = instance;
  if (!hello.events.empty()) endpoints_.events = hello.events;
  renew_every_ = Milliseconds(hello.limits.lease_renew_ms);
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = !hello_;
    hello_ = std::move(hello);
  }
  renew_in(0s);  // the kernel may be another instance
  if (!first) each_feed([&](KernelFeed::State& feed) { feed.found(instance, restarted); });
}

// -- feeds -------------------------------------------------------------------------------------------------------------

void KernelClient::Session::each_feed(const std::function<void(KernelFeed::State&)>& visit) {
  for (const auto& weak : std::vector(feeds_)) {
    if (const auto feed = weak.lock()) visit(*feed);
  }
}

void KernelClient::Session::remove(const KernelFeed::State* feed) {
  std::erase_if(feeds_, [&](const auto& weak) {
    const auto other = weak.lock();
    return !other || other.get() == feed;
  });
}

void KernelClient::Session::ask_later(std::string method, const Value& body, std::function<void(Outcome&&)> done) {
  caller_.ask(std::move(method), body, {}, kDefaultTimeout, false, std::move(done));
}

void KernelClient::Session::replay(const Value& body, std::function<void(Outcome&&)> done) {
  replays_.emplace_back(body, std::move(done));
  if (!replaying_) next_replay();
}

void KernelClient::Session::next_replay() {
  replaying_ = !replays_.empty();
  if (!replaying_) return;
  auto [body, done] = std::move(replays_.front());
  replays_.pop_front();
  ask_later("stream.replay", body, [this, done = std::move(done)](Outcome&& outcome) {
    next_replay();
    done(std::move(outcome));
  });
}

// -- leases ------------------------------------------------------------------------------------------------------------

std::vector<StreamState> KernelClient::Session::hold(const std::vector<std::uint32_t>& shards, Milliseconds timeout) {
  const Value body = Value::Map{{"shards", to_value(shards)}};
  auto reply = read_body<LeaseAcquireReply>(ask("lease.acquire", body, timeout, true).body);
  const std::lock_guard lock(mutex_);
  for (const std::uint32_t shard : shards) ++held_[shard];
  return std::move(reply.leases);
}

void KernelClient::Session::release(const std::vector<std::uint32_t>& shards, Milliseconds timeout) {
  std::vector<std::uint32_t> unused;
  {
    const std::lock_guard lock(mutex_);
    for (const std::uint32_t shard : shards) {
      const auto held = held_.find(shard);
      if (held == held_.end() || --held->second != 0) continue;
      held_.erase(held);
      unused.push_back(shard);
    }
  }
  if (unused.empty() || !ready()) return;
  (void)ask("lease.release", Value::Map{{"shards", to_value(unused)}}, timeout);
}

void KernelClient::Session::renew_in(Clock::duration delay) {
  if (renewal_) loop_.cancel(*renewal_);
  renewal_ = loop_.after(delay, [this] {
    renewal_.reset();
    renew();
  });
}

/// On time, after each hello, and soon again after a failure.
void KernelClient::Session::renew() {
  Value::Array shards;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    for (const auto& [shard, count] : held_) shards.emplace_back(shard);
  }
  renew_in(renew_every_);
  if (shards.empty() || !ready()) return;
  ask_later("lease.acquire", Value::Map{{"shards", std::move(shards)}}, [this](Outcome&& outcome) {
    if (outcome.error && ready()) renew_in(std::min<Clock::duration>(kRenewRetry, renew_every_));
  });
}

// -- the public face ---------------------------------------------------------------------------------------------------

std::string_view kind_of(const KernelEvent& event) {
  return std::visit([](const auto& one) { return one.kKind; }, event);
}
Value to_value(const KernelEvent& event) { return event_value(event); }

KernelClient::KernelClient(const std::string& where, const KernelOptions& options)
    : KernelClient(KernelEndpoints{where}, options) {}
KernelClient::KernelClient(const KernelEndpoints& endpoints, const KernelOptions& options)
    : session_(std::make_shared<Session>(checked(endpoints, options), options)) {}
KernelClient::~KernelClient() {
  if (session_) session_->close();
}
KernelClient::KernelClient(KernelClient&&) noexcept = default;
KernelClient& KernelClient::operator=(KernelClient&& other) noexcept {
  if (session_ && session_ != other.session_) session_->close();
  session_ = std::move(other.session_);
  return *this;
}

bool KernelClient::connected() const { return session_->ready(); }
KernelHello KernelClient::hello() const { return session_->hello(); }

RelayPublishReply KernelClient::publish(const std::string& content_topic, BytesView payload,
                                        const PublishOptions& options) {
  Body body;
  body.with("content_topic", content_topic).with_some("pubsub_topic", options.pubsub_topic);
  body.with_some("shard", options.shard).with_some("timestamp", options.timestamp).with_some("meta", options.meta);
  body.with_some("version", options.version).with_some("ephemeral", options.ephemeral);
  body.with_some("proof", options.proof).with_some("force", options.force);
  return read_body<RelayPublishReply>(session_->ask("relay.publish", std::move(body), options.timeout, false, {payload}).body);
}

StorePage KernelClient::store_query(const StoreQuery& query) {
  Body body;
  body.with_some("pubsub_topic", query.pubsub_topic);
  if (!query.content_topics.empty()) body.with("content_topics", query.content_topics);
  body.with_some("time_start", query.time_start).with_some("time_end", query.time_end);
  if (!query.hashes.empty()) body.with("hashes", Value::Array(query.hashes.begin(), query.hashes.end()));
  body.with_some("cursor", query.cursor).with("forward", query.forward).with("limit", query.limit);
  body.with("include_data", query.include_data).with_some("max_messages", query.max_messages);
  body.with_some("peer", query.peer);
  const Reply reply = session_->ask("store.query", std::move(body), query.timeout, true);
  auto found = read_body<StoreQueryReply>(reply.body);
  StorePage page{std::move(found.peer), std::move(found.hashes), {}, found.cursor};
  if (!query.include_data) return page;
  if (reply.blobs.size() != 2 * page.hashes.size()) {
    throw Error(ErrorCode::kBadRequest, "store.query: two blobs for each message");
  }
  for (std::size_t index = 0; index < page.hashes.size(); ++index) {
    const Value header = unpack(reply.blobs[2 * index]);
    const auto* row = header.get<Value::Array>();
    if (row == nullptr || row->size() < 7) refuse_field("store.query: a message's header", "an array of seven");
    StoredMessage message;
    message.message_hash = page.hashes[index];
    read((*row)[0], message.pubsub_topic, Field{}, "pubsub topic");
    read((*row)[1], message.content_topic, Field{kMaxEventHeader, true}, "content topic");
    read((*row)[2], message.timestamp, Field{}, "timestamp");
    read((*row)[3], message.meta, Field{}, "meta");
    read((*row)[4], message.ephemeral, Field{}, "ephemeral");
    read((*row)[5], message.version, Field{}, "version");
    read((*row)[6], message.proof, Field{}, "proof");
    message.payload = reply.blobs[2 * index + 1];
    page.messages.push_back(std::move(message));
  }
  return page;
}

std::map<std::string, std::vector<std::string>> KernelClient::relay_peers(const std::string& pubsub_topic) {
  Body body;
  body.with_some("pubsub_topic", pubsub_topic);
  return read_body<RelayPeersReply>(session_->ask("relay.peers", std::move(body), kDefaultTimeout, true).body).topics;
}

std::map<std::string, std::vector<std::string>> KernelClient::mesh(const std::string& pubsub_topic) {
  Body body;
  body.with_some("pubsub_topic", pubsub_topic);
  return read_body<RelayPeersReply>(session_->ask("relay.mesh", std::move(body), kDefaultTimeout, true).body).topics;
}

std::vector<PeerRecord> KernelClient::peers() {
  return read_body<PeersListReply>(session_->ask("peers.list", Value::Map{}, kDefaultTimeout, true).body).peers;
}

std::vector<ConnectResult> KernelClient::connect_peers(const std::vector<std::string>& addresses, Milliseconds timeout) {
  const Value body = Value::Map{{"addresses", addresses}};
  return read_body<PeersConnectReply>(session_->ask("peers.connect", body, timeout).body).results;
}

bool KernelClient::disconnect_peer(const std::string& peer_id) {
  const Reply reply = session_->ask("peers.disconnect", Value::Map{{"peer_id", peer_id}});
  const Value* said = reply.body.find("disconnected");
  return said != nullptr && *said == Value(true);
}

NodeHealth KernelClient::health() {
  return read_body<NodeHealth>(session_->ask("node.health", Value::Map{}, kDefaultTimeout, true).body);
}

Value KernelClient::info(const std::vector<std::string>& ids) {
  Body body;
  if (!ids.empty()) body.with("ids", ids);
  const Reply reply = session_->ask("node.info", std::move(body), kDefaultTimeout, true);
  const Value* info = reply.body.find("info");
  return info == nullptr ? Value() : *info;
}

std::vector<StreamState> KernelClient::lease(const std::vector<std::uint32_t>& shards, Milliseconds timeout) {
  return session_->hold(shards, timeout);
}
void KernelClient::release(const std::vector<std::uint32_t>& shards, Milliseconds timeout) {
  session_->release(shards, timeout);
}

KernelFeed KernelClient::events(const FeedOptions& options) {
  auto state = std::make_shared<KernelFeed::State>(session_, options);
  state->open();
  return KernelFeed(std::move(state));
}

Reply KernelClient::call(const std::string& method, const Value& body, const std::vector<BytesView>& blobs,
                         Milliseconds timeout) {
  return session_->ask(method, body, timeout, false, blobs);
}

void KernelClient::close() { session_->close(); }

}  // namespace logos
