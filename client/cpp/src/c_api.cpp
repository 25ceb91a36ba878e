// The C ABI on top of the C++ client: handles, explicit lengths, no exception across.
#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>

#include "contract_fields.hpp"
#include "logos/kernel.hpp"
#include "logos_client.h"

struct logos_messaging {
  logos::MessagingClient client;
};
struct logos_kernel {
  logos::KernelClient client;
};
struct logos_feed {
  logos::KernelFeed feed;
};
struct logos_event {
  std::int32_t kind;
  std::string name;
  logos::Value fields;
  logos::Bytes packed;
};
struct logos_reply {
  logos::Bytes body;
  std::vector<logos::Bytes> blobs;
};

namespace {

using logos::Bytes;
using logos::BytesView;
using logos::Milliseconds;
using logos::Value;

// `Event` has no heartbeat, so a kind's number is its place + 1 up to the contract's last; then come the client's own.
static_assert(std::variant_size_v<logos::Event> ==
              logos::kAppEventKinds + (LOGOS_EVENT_LINK_RESTORED - LOGOS_EVENT_LINK_LOST + 1));
static_assert(static_cast<int>(logos::ErrorCode::kInternal) + 1 == LOGOS_INTERNAL);

std::int32_t number(const logos::Event& event) {
  const std::size_t place = event.index();
  return static_cast<std::int32_t>(place < logos::kAppEventKinds ? place + 1 : place - logos::kAppEventKinds + LOGOS_EVENT_LINK_LOST);
}
std::int32_t number(const logos::KernelEvent& event) {
  return static_cast<std::int32_t>(event.index()) + LOGOS_KERNEL_MESSAGE;
}

/// Copy a text whole, or cut it where a character begins.
template <std::size_t N>
void copy_text(char (&into)[N], std::string_view text) {
  std::size_t size = std::min(text.size(), N - 1);
  while (size < text.size() && size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) --size;
  std::memcpy(into, text.data(), size);
  into[size] = '\0';
}

std::int32_t say(logos_error* error, std::int32_t code, std::string_view name, std::string_view message,
                 bool retriable = false, std::int64_t retry_after_ms = -1) {
  if (error != nullptr) {
    error->code = code;
    error->retriable = retriable ? 1 : 0;
    error->retry_after_ms = retry_after_ms;
    copy_text(error->name, name);
    copy_text(error->message, message);
  }
  return code;
}

std::int32_t say(logos_error* error, const logos::Error& what) {
  return say(error, static_cast<std::int32_t>(what.code()) + 1, logos::code_name(what.code()), what.message(),
             what.retriable(), what.retry_after().value_or(Milliseconds(-1)).count());
}

/// Run what may throw; its code.
template <class Work>
std::int32_t guarded(logos_error* error, Work work) noexcept {
  try {
    if (error != nullptr) *error = logos_error{LOGOS_OK, 0, -1, {}, {}};
    work();
    return LOGOS_OK;
  } catch (const logos::Error& what) {
    return say(error, what);
  } catch (const std::bad_alloc&) {
    return say(error, LOGOS_OUT_OF_MEMORY, "out_of_memory", "out of memory");
  } catch (const std::logic_error& what) {
    return say(error, LOGOS_INVALID_ARGUMENT, "invalid_argument", what.what());
  } catch (const std::exception& what) {
    return say(error, LOGOS_INTERNAL, "internal", what.what(), true);
  } catch (...) {
    return say(error, LOGOS_INTERNAL, "internal", "an exception of an unknown type", true);
  }
}

void need(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

BytesView view(const uint8_t* data, size_t size) {
  need(data != nullptr || size == 0, "bytes: NULL with a length");
  return {data, size};
}

Milliseconds limit(std::int64_t timeout_ms) { return timeout_ms < 0 ? logos::kDefaultTimeout : Milliseconds(timeout_ms); }

std::string text(const char* value, const char* what) {
  need(value != nullptr, what);
  return value;
}

std::vector<std::string> texts(const char* const* values, size_t count) {
  need(values != nullptr || count == 0, "topics: NULL");
  std::vector<std::string> all;
  for (size_t index = 0; index < count; ++index) all.push_back(text(values[index], "topic: NULL"));
  return all;
}

logos::Id id_of(const uint8_t* bytes, const char* what) {
  need(bytes != nullptr, what);
  logos::Id id;
  std::copy_n(bytes, id.size(), id.begin());
  return id;
}

logos::SendOptions send_options(const logos_send_options* given) {
  logos::SendOptions options;
  if (given == nullptr) return options;
  need(given->size >= sizeof(logos_send_options), "options: size is not sizeof(logos_send_options)");
  if (given->request_id != nullptr) options.request_id = id_of(given->request_id, "request id");
  const BytesView meta = view(given->meta.data, given->meta.size);
  options.meta.assign(meta.begin(), meta.end());
  options.ephemeral = given->ephemeral != 0;
  if (given->timeout_ms > 0) options.timeout = Milliseconds(given->timeout_ms);
  return options;
}

void give(logos_reply** into, logos::Reply&& reply) {
  if (into != nullptr) *into = new logos_reply{logos::pack(reply.body), std::move(reply.blobs)};
}

template <class Client>
void call(Client& client, const char* method, logos_bytes body, const logos_bytes* blobs, size_t blob_count,
          int64_t timeout_ms, logos_reply** reply) {
  need(blobs != nullptr || blob_count == 0, "blobs: NULL");
  std::vector<BytesView> all;
  for (size_t index = 0; index < blob_count; ++index) all.push_back(view(blobs[index].data, blobs[index].size));
  const Value packed = body.size == 0 ? Value(Value::Map{}) : logos::unpack(view(body.data, body.size));
  give(reply, client.call(text(method, "method: NULL"), packed, all, limit(timeout_ms)));
}

template <class Source>
void next(Source& source, int64_t timeout_ms, logos_event** into) {
  need(into != nullptr, "event: NULL");
  *into = nullptr;
  const auto timeout = timeout_ms < 0 ? std::nullopt : std::optional(Milliseconds(timeout_ms));
  const auto event = source.next_event(timeout);
  if (!event) return;
  *into = new logos_event{number(*event), std::string(logos::kind_of(*event)), logos::to_value(*event), {}};
}

template <class T>
const T* field(const logos_event* event, const char* name) {
  const Value* found = event == nullptr || name == nullptr ? nullptr : event->fields.find(name);
  return found == nullptr ? nullptr : found->get<T>();
}

template <class T>
std::int32_t bytes_of(const T* found, logos_bytes* value) {
  if (found == nullptr || value == nullptr) return 0;
  *value = {reinterpret_cast<const uint8_t*>(found->data()), found->size()};
  return 1;
}

logos_bytes bytes_of(const Bytes& bytes) { return {bytes.data(), bytes.size()}; }

}  // namespace

uint32_t logos_abi_version(void) { return LOGOS_ABI_VERSION; }

// -- an app ------------------------------------------------------------------------------------------------------------

void logos_options_init(logos_options* options) {
  if (options != nullptr) *options = logos_options{sizeof(logos_options), nullptr, 0, 0, 0, 0};
}

int32_t logos_messaging_connect(const char* where, const logos_options* given, logos_messaging** client,
                                logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    *client = nullptr;
    logos::ConnectOptions options;
    if (given != nullptr) {
      need(given->size >= sizeof(logos_options), "options: size is not sizeof(logos_options)");
      if (given->name != nullptr) options.name = given->name;
      options.takeover = given->takeover != 0;
      options.auto_ack = given->manual_ack == 0;
      if (given->credit != 0) options.credit = given->credit;
      if (given->timeout_ms > 0) options.timeout = Milliseconds(given->timeout_ms);
    }
    *client = new logos_messaging{logos::MessagingClient(text(where, "where: NULL"), options)};
  });
}

void logos_messaging_close(logos_messaging* client, int32_t handled) {
  if (client == nullptr) return;
  (void)guarded(nullptr, [&] { client->client.close(handled != 0); });
  delete client;
}

int32_t logos_messaging_connected(const logos_messaging* client) {
  return client != nullptr && client->client.connected() ? 1 : 0;
}

int32_t logos_messaging_subscribe(logos_messaging* client, const char* const* topics, size_t count, int64_t timeout_ms,
                                  logos_reply** refused, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    if (refused != nullptr) *refused = nullptr;
    const auto errors = client->client.subscribe(texts(topics, count), {.timeout = limit(timeout_ms)});
    if (refused == nullptr && !errors.empty()) {
      throw logos::Error(logos::ErrorCode::kBadRequest, errors.begin()->first + ": " + errors.begin()->second);
    }
    Value::Map map;
    for (const auto& [topic, reason] : errors) map.emplace_back(topic, reason);
    give(refused, {std::move(map), {}, {}});
  });
}

int32_t logos_messaging_unsubscribe(logos_messaging* client, const char* const* topics, size_t count,
                                    int64_t timeout_ms, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    client->client.unsubscribe(texts(topics, count), limit(timeout_ms));
  });
}

int32_t logos_messaging_send(logos_messaging* client, const char* topic, const uint8_t* payload, size_t size,
                             const logos_send_options* options, uint8_t* request_id, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    const auto id = client->client.send(text(topic, "topic: NULL"), view(payload, size), send_options(options));
    if (request_id != nullptr) std::copy(id.begin(), id.end(), request_id);
  });
}

int32_t logos_messaging_send_async(logos_messaging* client, const char* topic, const uint8_t* payload, size_t size,
                                   const logos_send_options* given, logos_sent done, void* user, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr && done != nullptr, "client or done: NULL");
    auto options = send_options(given);
    if (!options.request_id) options.request_id = logos::new_request_id();
    const auto sent = [done, user, id = *options.request_id](const logos::Outcome& outcome) {
      logos_error what;
      if (outcome.error) (void)say(&what, *outcome.error);
      done(user, id.data(), outcome.error ? &what : nullptr);
    };
    client->client.send_async(text(topic, "topic: NULL"), view(payload, size), sent, options);
  });
}

int32_t logos_messaging_ack(logos_messaging* client, const uint8_t* stream, uint64_t seq, int64_t timeout_ms,
                            logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    if (stream == nullptr) {
      client->client.ack(limit(timeout_ms));
    } else {
      client->client.ack(logos::Position{id_of(stream, "stream"), seq}, limit(timeout_ms));
    }
  });
}

int32_t logos_messaging_cancel(logos_messaging* client, const uint8_t* request_id, int64_t timeout_ms,
                               int32_t* cancelled, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    const bool done = client->client.cancel(id_of(request_id, "request id: NULL"), {}, limit(timeout_ms));
    if (cancelled != nullptr) *cancelled = done ? 1 : 0;
  });
}

int32_t logos_messaging_forget(logos_messaging* client, const char* name, int64_t timeout_ms, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    client->client.forget(text(name, "name: NULL"), limit(timeout_ms));
  });
}

int32_t logos_messaging_call(logos_messaging* client, const char* method, logos_bytes body, const logos_bytes* blobs,
                             size_t blob_count, int64_t timeout_ms, logos_reply** reply, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    call(client->client, method, body, blobs, blob_count, timeout_ms, reply);
  });
}

int32_t logos_messaging_next(logos_messaging* client, int64_t timeout_ms, logos_event** event, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    next(client->client, timeout_ms, event);
  });
}

int logos_messaging_fd(logos_messaging* client) {
  int descriptor = -1;
  if (client != nullptr) (void)guarded(nullptr, [&] { descriptor = client->client.event_fd(); });
  return descriptor;
}

// -- a kernel ----------------------------------------------------------------------------------------------------------

int32_t logos_kernel_connect(const char* where, const char* name, int64_t timeout_ms, logos_kernel** client,
                             logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    *client = nullptr;
    logos::KernelOptions options;
    if (name != nullptr) options.name = name;
    options.timeout = limit(timeout_ms);
    *client = new logos_kernel{logos::KernelClient(text(where, "where: NULL"), options)};
  });
}

void logos_kernel_close(logos_kernel* client) { delete client; }

int32_t logos_kernel_publish(logos_kernel* client, const char* topic, const uint8_t* payload, size_t size,
                             int64_t timeout_ms, logos_reply** reply, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    const Value body = Value::Map{{"content_topic", text(topic, "topic: NULL")}};
    give(reply, client->client.call("relay.publish", body, {view(payload, size)}, limit(timeout_ms)));
  });
}

int32_t logos_kernel_call(logos_kernel* client, const char* method, logos_bytes body, const logos_bytes* blobs,
                          size_t blob_count, int64_t timeout_ms, logos_reply** reply, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    call(client->client, method, body, blobs, blob_count, timeout_ms, reply);
  });
}

int32_t logos_kernel_events(logos_kernel* client, const uint32_t* shards, size_t count, int32_t health, int32_t peers,
                            int64_t timeout_ms, logos_feed** feed, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr && feed != nullptr, "client or feed: NULL");
    need(shards != nullptr || count == 0, "shards: NULL");
    *feed = nullptr;
    logos::FeedOptions options;
    options.shards.assign(shards, shards + count);
    options.health = health != 0;
    options.peers = peers != 0;
    options.timeout = limit(timeout_ms);
    *feed = new logos_feed{client->client.events(options)};
  });
}

void logos_feed_close(logos_feed* feed) { delete feed; }

int32_t logos_feed_next(logos_feed* feed, int64_t timeout_ms, logos_event** event, logos_error* error) {
  return guarded(error, [&] {
    need(feed != nullptr, "feed: NULL");
    next(feed->feed, timeout_ms, event);
  });
}

int logos_feed_fd(logos_feed* feed) {
  int descriptor = -1;
  if (feed != nullptr) (void)guarded(nullptr, [&] { descriptor = feed->feed.event_fd(); });
  return descriptor;
}

// -- events and replies ------------------------------------------------------------------------------------------------

void logos_event_free(logos_event* event) { delete event; }
int32_t logos_event_kind(const logos_event* event) { return event == nullptr ? 0 : event->kind; }
const char* logos_event_name(const logos_event* event) { return event == nullptr ? "" : event->name.c_str(); }

int32_t logos_event_bytes(const logos_event* event, const char* name, logos_bytes* value) {
  return bytes_of(field<Bytes>(event, name), value);
}
int32_t logos_event_text(const logos_event* event, const char* name, logos_bytes* value) {
  return bytes_of(field<std::string>(event, name), value);
}
int32_t logos_event_integer(const logos_event* event, const char* name, int64_t* value) {
  if (value == nullptr) return 0;
  if (const auto* found = field<std::int64_t>(event, name)) {
    *value = *found;
  } else if (const auto* flag = field<bool>(event, name)) {
    *value = *flag ? 1 : 0;
  } else {
    return 0;
  }
  return 1;
}
logos_bytes logos_event_packed(logos_event* event) {
  if (event == nullptr) return {nullptr, 0};
  if (event->packed.empty()) (void)guarded(nullptr, [&] { event->packed = logos::pack(event->fields); });
  return bytes_of(event->packed);
}

void logos_reply_free(logos_reply* reply) { delete reply; }
logos_bytes logos_reply_body(const logos_reply* reply) { return reply == nullptr ? logos_bytes{} : bytes_of(reply->body); }
size_t logos_reply_blob_count(const logos_reply* reply) { return reply == nullptr ? 0 : reply->blobs.size(); }
logos_bytes logos_reply_blob(const logos_reply* reply, size_t index) {
  return reply == nullptr || index >= reply->blobs.size() ? logos_bytes{} : bytes_of(reply->blobs[index]);
}
