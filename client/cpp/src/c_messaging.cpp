// The C ABI of an app.
#include <algorithm>

#include "c_abi.hpp"

struct logos_hook_result {
  std::optional<logos::Bytes> content;
  std::string reason = "the hook gave nothing";
};

namespace {

using logos::BytesView;
using logos::Milliseconds;
using logos::Value;
using namespace logos::abi;

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

logos::ChannelOptions channel_options(const logos_channel_options* given) {
  logos::ChannelOptions options;
  if (given == nullptr) return options;
  need(given->size >= sizeof(logos_channel_options), "options: size is not sizeof(logos_channel_options)");
  need(given->keys != nullptr || given->key_count == 0, "keys: NULL with a count");
  if (given->sender_id != nullptr) options.sender_id = given->sender_id;
  if (given->profile != nullptr) options.profile = given->profile;
  options.keys.resize(given->key_count);
  for (size_t index = 0; index < given->key_count; ++index) {
    std::copy_n(given->keys + index * sizeof(logos::Hash), sizeof(logos::Hash), options.keys[index].begin());
  }
  options.keep_keys = given->keep_keys != 0;
  options.hooks = given->hooks != 0;
  options.parity = given->parity;
  if (given->timeout_ms > 0) options.timeout = Milliseconds(given->timeout_ms);
  return options;
}

/// A function of C as a hook: what it does not give has failed.
logos::Hook hook_of(logos_hook function, void* user) {
  return [function, user](BytesView segment) {
    logos_hook_result result;
    function(user, segment.data(), segment.size(), &result);
    if (!result.content) throw std::runtime_error(result.reason);
    return std::move(*result.content);
  };
}

}  // namespace

uint32_t logos_abi_version(void) { return LOGOS_ABI_VERSION; }

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

int32_t logos_messaging_create_channel(logos_messaging* client, const char* channel, const char* topic,
                                       const logos_channel_options* options, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    client->client.create_channel(text(channel, "channel: NULL"), text(topic, "topic: NULL"), channel_options(options));
  });
}

int32_t logos_messaging_send_to_channel(logos_messaging* client, const char* channel, const uint8_t* payload, size_t size,
                                        const logos_send_options* options, uint8_t* request_id, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    const auto id =
        client->client.send_to_channel(text(channel, "channel: NULL"), view(payload, size), send_options(options));
    if (request_id != nullptr) std::copy(id.begin(), id.end(), request_id);
  });
}

void logos_hook_give(logos_hook_result* result, const uint8_t* data, size_t size) {
  if (result == nullptr) return;
  const std::int32_t code = guarded(nullptr, [&] {
    const BytesView given = view(data, size);
    result->content.emplace(given.begin(), given.end());
  });
  if (code != LOGOS_OK) result->content.reset();
}

void logos_hook_fail(logos_hook_result* result, const char* reason) {
  if (result == nullptr) return;
  result->content.reset();
  (void)guarded(nullptr, [&] { result->reason = text(reason, "reason: NULL"); });
}

int32_t logos_messaging_set_channel_encryption(logos_messaging* client, const char* channel, logos_hook encrypt,
                                               logos_hook decrypt, void* user, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr && encrypt != nullptr && decrypt != nullptr, "client, encrypt or decrypt: NULL");
    client->client.set_channel_encryption(text(channel, "channel: NULL"), hook_of(encrypt, user), hook_of(decrypt, user));
  });
}

int32_t logos_messaging_clear_channel_encryption(logos_messaging* client, const char* channel, logos_error* error) {
  return guarded(error, [&] {
    need(client != nullptr, "client: NULL");
    client->client.clear_channel_encryption(text(channel, "channel: NULL"));
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

