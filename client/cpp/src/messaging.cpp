#include "logos/messaging.hpp"

#include <stdexcept>

#include "fields.hpp"
#include "session.hpp"

namespace logos {
namespace {

std::string checked(const std::string& where, const ConnectOptions& options) {
  check_name(options.name);
  if (options.credit == 0) throw std::invalid_argument("credit: bytes, at least one");
  const std::string endpoint = endpoint_at(where, "mapi/apps");
  for (const char* other : {"/kernel/events", "/kernel/requests", "/kernel/control", "/mapi/control"}) {
    if (endpoint.ends_with(other)) {
      throw std::invalid_argument(where + " is another socket of a node; apps connect to mapi/apps");
    }
  }
  return endpoint;
}

Value send_body(const Id& id, const std::string& topic, const SendOptions& options) {
  Body body;
  body.with("request_id", id).with("content_topic", topic).with_some("meta", options.meta);
  body.with("ephemeral", options.ephemeral);
  return Value(std::move(body));
}

}  // namespace

Id new_request_id() { return random_id(); }

std::optional<Position> position_of(const Event& event) {
  return std::visit(
      [](const auto& one) -> std::optional<Position> {
        if constexpr (requires { one.stream_id; } && !std::is_same_v<std::decay_t<decltype(one)>, TakenOver>) {
          return Position{one.stream_id, one.seq};
        } else {
          return std::nullopt;
        }
      },
      event);
}

std::string_view kind_of(const Event& event) {
  return std::visit([](const auto& one) { return one.kKind; }, event);
}

Value to_value(const Event& event) { return event_value(event); }

MessagingClient::MessagingClient(const std::string& where, const ConnectOptions& options)
    : session_(std::make_unique<Session>(checked(where, options), options)) {
  // A first hello's list that goes on (§4.2): a server that loses the app's subscriptions gets all of them again.
  if (hello().more.value_or(false)) session_->note_topics(subscriptions(options.timeout), true);
}
MessagingClient::~MessagingClient() = default;
MessagingClient::MessagingClient(MessagingClient&&) noexcept = default;
MessagingClient& MessagingClient::operator=(MessagingClient&&) noexcept = default;

bool MessagingClient::connected() const { return session_->ready(); }
MapiHello MessagingClient::hello() const {
  return session_->look([](const MapiHello& hello, auto&, auto&) { return hello; });
}
StatusReply MessagingClient::last_status() const {
  return session_->look([](auto&, const StatusReply& status, auto&) { return status; });
}
StreamCounters MessagingClient::counters() const {
  return session_->look([](auto&, auto&, const AppStream& stream) { return stream.counters; });
}
std::uint64_t MessagingClient::buffered_bytes() const {
  return session_->look([](auto&, auto&, const AppStream& stream) { return stream.queued_bytes(); });
}

std::map<std::string, std::string> MessagingClient::subscribe(const std::vector<std::string>& topics,
                                                              const SubscribeOptions& options) {
  Body body;
  body.with("topics", topics).with_some("since_last", options.since_last);
  body.with_some("history_ms", static_cast<std::uint64_t>(options.history.count()));
  const Reply reply = session_->ask("subscribe", std::move(body), true, options.timeout);
  auto errors = read_key<std::map<std::string, std::string>>(reply.body, "errors");
  std::vector<std::string> taken;
  for (const std::string& topic : topics) {
    if (!errors.contains(topic)) taken.push_back(topic);
  }
  session_->note_topics(taken, true);
  return errors;
}

void MessagingClient::subscribe(const std::string& topic, const SubscribeOptions& options) {
  const auto errors = subscribe(std::vector{topic}, options);
  if (const auto refused = errors.find(topic); refused != errors.end()) {
    throw Error(ErrorCode::kBadRequest, topic + ": " + refused->second);
  }
}

std::map<std::string, std::string> MessagingClient::unsubscribe(const std::vector<std::string>& topics,
                                                                Milliseconds timeout) {
  const Reply reply = session_->ask("unsubscribe", Value::Map{{"topics", topics}}, false, timeout);
  session_->note_topics(topics, false);
  return read_key<std::map<std::string, std::string>>(reply.body, "errors");
}

std::vector<std::string> MessagingClient::subscriptions(Milliseconds timeout) {
  std::vector<std::string> all;
  for (bool more = true; more;) {
    Body body;
    if (!all.empty()) body.with("after", all.back());
    const Reply reply = session_->ask("subscriptions", std::move(body), true, timeout);
    auto part = read_key<std::vector<std::string>>(reply.body, "topics");
    more = !part.empty() && reply.body.find("more") != nullptr && read_key<bool>(reply.body, "more");
    all.insert(all.end(), std::move_iterator(part.begin()), std::move_iterator(part.end()));
  }
  return all;
}

Id MessagingClient::send(const std::string& topic, BytesView payload, const SendOptions& options) {
  session_->check_payload(payload);
  const Id id = options.request_id.value_or(random_id());
  (void)session_->ask("send", send_body(id, topic, options), true, options.timeout, {payload});
  return id;
}

Id MessagingClient::send_async(const std::string& topic, BytesView payload, std::function<void(const Outcome&)> done,
                               const SendOptions& options) {
  session_->check_payload(payload);
  const Id id = options.request_id.value_or(random_id());
  session_->ask_async("send", send_body(id, topic, options), true, options.timeout, {payload},
                      [done = std::move(done)](Outcome&& outcome) { done(outcome); });
  return id;
}

PendingReply MessagingClient::pending(const std::string& name, Milliseconds timeout) {
  Body body;
  body.with_some("name", name);
  return read_body<PendingReply>(session_->ask("pending", std::move(body), true, timeout).body);
}

std::optional<PendingSend> MessagingClient::find_send(const Id& request_id, const std::string& name,
                                                      Milliseconds timeout) {
  Body body;
  body.with("request_id", request_id).with_some("name", name);
  return read_body<FindSendReply>(session_->ask("find_send", std::move(body), true, timeout).body).send;
}

bool MessagingClient::cancel(const Id& request_id, const std::string& name, Milliseconds timeout) {
  Body body;
  body.with("request_id", request_id).with_some("name", name);
  return read_key<bool>(session_->ask("cancel", std::move(body), false, timeout).body, "cancelled");
}

StatusReply MessagingClient::status(Milliseconds timeout) {
  auto status = read_body<StatusReply>(session_->ask("status", Value::Map{}, true, timeout).body);
  while (status.more.value_or(false) && !status.topics.empty()) {
    const Value after = Value::Map{{"after", status.topics.rbegin()->first}};
    auto part = read_body<StatusReply>(session_->ask("status", after, true, timeout).body);
    if (part.topics.empty()) break;
    status.topics.merge(part.topics);
    status.more = part.more;
  }
  status.more.reset();
  return status;
}

Value MessagingClient::node_info(const std::vector<std::string>& ids, Milliseconds timeout) {
  Body body;
  if (!ids.empty()) body.with("ids", ids);
  return read_key<Value>(session_->ask("node.info", std::move(body), true, timeout).body, "info");
}

void MessagingClient::forget(const std::string& name, Milliseconds timeout) {
  (void)session_->ask("forget", Value::Map{{"name", name}}, false, timeout);
}

void MessagingClient::ack(const Event& event, Milliseconds timeout) {
  if (const auto position = position_of(event)) session_->ack(*position, timeout);
}
void MessagingClient::ack(const Position& position, Milliseconds timeout) { session_->ack(position, timeout); }
void MessagingClient::ack(Milliseconds timeout) {
  const auto handled = session_->look([](auto&, auto&, const AppStream& stream) { return stream.last_handled(); });
  if (handled) session_->ack(*handled, timeout);
}

Reply MessagingClient::call(const std::string& method, const Value& body, const std::vector<BytesView>& blobs,
                            Milliseconds timeout) {
  return session_->ask(method, body, false, timeout, blobs);
}

// -- events ------------------------------------------------------------------------------------------------------------

std::optional<Event> MessagingClient::next_event(std::optional<Milliseconds> timeout) { return session_->next(timeout); }
std::optional<Event> MessagingClient::try_next() { return session_->try_next(); }
bool MessagingClient::ended() const { return session_->ended(); }
int MessagingClient::event_fd() { return session_->event_fd(); }
void MessagingClient::on_events(std::function<void()> callback) { session_->on_events(std::move(callback)); }

void MessagingClient::close(bool handled) { session_->close(handled); }

}  // namespace logos
