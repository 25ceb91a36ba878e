// The C ABI of a kernel's consumer.
#include "c_abi.hpp"

using logos::Value;
using namespace logos::abi;

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

