// The reliable channels of an app (ipc_schema/SPEC.md, §4.5).
#include <algorithm>
#include <cmath>

#include "fields.hpp"
#include "session.hpp"

namespace logos {
namespace {

/// Of a payload, which travels in several; less if the server takes less.
constexpr std::size_t kBlob = 1 << 20;

/// Data for a channel, in blobs that the Messaging API takes.
std::vector<BytesView> blobs_of(BytesView data, std::uint64_t limit) {
  const std::size_t most = limit > 0 ? std::min<std::uint64_t>(limit, kBlob) : kBlob;
  if (data.size() > most * kMaxRequestBlobs) {
    throw Error(ErrorCode::kTooLarge, std::to_string(data.size()) + " bytes, at most " + std::to_string(most * kMaxRequestBlobs));
  }
  std::vector<BytesView> blobs;
  for (std::size_t at = 0; at < data.size(); at += most) blobs.push_back(data.subspan(at, std::min(most, data.size() - at)));
  return blobs;
}

}  // namespace

std::string MessagingClient::create_channel(const std::string& channel_id, const std::string& topic,
                                            const ChannelOptions& options) {
  const auto& features = hello().features;
  if (options.hooks && std::find(features.begin(), features.end(), "channel_hooks") == features.end()) {
    // It would ignore the key, and the channel would not be encrypted.
    throw Error(ErrorCode::kUnknownMethod, "this Messaging API has no channels with hooks");
  }
  Body body;
  body.with("channel_id", channel_id).with("content_topic", topic).with_some("sender_id", options.sender_id);
  body.with_some("profile", options.profile).with_some("keep_keys", options.keep_keys);
  if (!options.keys.empty()) body.with("keys", Value::Array(options.keys.begin(), options.keys.end()));
  body.with("parity_ppm", static_cast<std::int64_t>(std::lround(options.parity * 1e6))).with_some("hooks", options.hooks);
  return read_key<std::string>(session_->ask("channel.create", std::move(body), false, options.timeout).body, "sender_id");
}

bool MessagingClient::channel_exists(const std::string& channel_id) {
  const Value body = Value::Map{{"channel_id", channel_id}};
  return read_key<bool>(session_->ask("channel.exists", body, true, kDefaultTimeout).body, "exists");
}

std::vector<ChannelInfo> MessagingClient::channels() {
  const Reply reply = session_->ask("channel.list", Value::Map{}, true, kDefaultTimeout);
  return read_key<std::vector<ChannelInfo>>(reply.body, "channels");
}

ChannelStatusReply MessagingClient::channel_status(const std::string& channel_id) {
  const Value body = Value::Map{{"channel_id", channel_id}};
  return read_body<ChannelStatusReply>(session_->ask("channel.status", body, true, kDefaultTimeout).body);
}

std::optional<PendingChannelSend> MessagingClient::find_channel_send(const std::string& channel_id, const Id& request_id) {
  Body body;
  body.with("channel_id", channel_id).with("request_id", request_id);
  const Reply reply = session_->ask("channel.find_send", std::move(body), true, kDefaultTimeout);
  return read_body<ChannelFindSendReply>(reply.body).send;
}

void MessagingClient::close_channel(const std::string& channel_id) {
  (void)session_->ask("channel.close", Value::Map{{"channel_id", channel_id}}, true, kDefaultTimeout);
}

void MessagingClient::forget_channel(const std::string& channel_id) {
  (void)session_->ask("channel.forget", Value::Map{{"channel_id", channel_id}}, false, kDefaultTimeout);
}

Id MessagingClient::send_to_channel(const std::string& channel_id, BytesView payload, const SendOptions& options) {
  if (!options.meta.empty()) throw std::invalid_argument("a payload for a channel has no meta");
  const auto deadline = Clock::now() + options.timeout;
  const auto limit = session_->look([](const MapiHello& hello, auto&, auto&) { return hello.limits.blob_bytes; });
  const Id id = options.request_id.value_or(random_id());
  Body body;
  body.with("channel_id", channel_id).with("request_id", id).with("ephemeral", options.ephemeral);
  SealedPayload whole;
  if (const auto hooks = session_->hooks_of(channel_id)) {
    const Value asked = Value::Map{{"channel_id", channel_id}};
    whole = seal_payload(*hooks, payload,
                         session_->ask("channel.split", asked, true, options.timeout, blobs_of(payload, limit)));
    body.with("sealed", std::move(whole.sealed));
    payload = whole.data;
  }
  const auto left = std::chrono::ceil<Milliseconds>(deadline - Clock::now());
  (void)session_->ask("channel.send", std::move(body), true, left, blobs_of(payload, limit));
  return id;
}

void MessagingClient::set_channel_encryption(const std::string& channel_id, Hook encrypt, Hook decrypt) {
  session_->set_hooks(channel_id, std::move(encrypt), std::move(decrypt));
}
void MessagingClient::clear_channel_encryption(const std::string& channel_id) { session_->clear_hooks(channel_id); }

}  // namespace logos
