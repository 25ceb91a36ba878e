#include "channel_hooks.hpp"

#include <sodium.h>

#include <exception>
#include <stdexcept>

#include "calls.hpp"
#include "fields.hpp"
#include "text.hpp"

namespace logos {
namespace {

constexpr std::size_t kMaxHookError = 1'000;  // bytes of a hook's error that are passed on (§4.5)
constexpr const char* kNoReason = "the hook failed";

/// The result of a hook. Why there is none is in `failed`.
std::optional<Bytes> run(const Hook& hook, BytesView segment, std::string& failed) {
  try {
    return hook(segment);
  } catch (const std::exception& error) {
    failed = cut(error.what(), kMaxHookError);
  } catch (...) {  // a callback of another language may throw anything
  }
  if (failed.empty() || !is_utf8(failed)) failed = kNoReason;
  return std::nullopt;
}

Hash sha256(BytesView bytes) {
  static_assert(sizeof(Hash) == crypto_hash_sha256_BYTES);
  if (::sodium_init() < 0) throw std::runtime_error("libsodium does not start");
  Hash digest;
  ::crypto_hash_sha256(digest.data(), bytes.data(), bytes.size());
  return digest;
}

}  // namespace

void ChannelHooks::clear(const std::string& channel_id) {
  if (pairs_.erase(channel_id) == 0) {
    throw Error(ErrorCode::kBadRequest, "no encryption registered for channel: " + channel_id);
  }
}

std::shared_ptr<const HookPair> ChannelHooks::find(const std::string& channel_id) const {
  const auto found = pairs_.find(channel_id);
  return found == pairs_.end() ? nullptr : found->second;
}

SealedPayload seal_payload(const HookPair& hooks, BytesView payload, const Reply& split) {
  const auto body = read_body<ChannelSplitReply>(split.body);
  Bytes joined;
  for (const Bytes& blob : split.blobs) joined.insert(joined.end(), blob.begin(), blob.end());
  BytesView left = joined;
  SealedPayload whole;
  Value::Array sizes;
  for (const std::uint64_t size : body.sizes) {
    if (size > left.size()) throw Error(ErrorCode::kBadRequest, "channel.split: sizes beyond the blobs");
    std::string failed;
    const auto segment = run(hooks.encrypt, left.first(size), failed);
    if (!segment) throw Error(ErrorCode::kBadRequest, "encryption failed: " + failed);
    whole.data.insert(whole.data.end(), segment->begin(), segment->end());
    sizes.emplace_back(static_cast<std::uint64_t>(segment->size()));
    left = left.subspan(size);
  }
  // The digest is of the plain payload: an encryption may differ each time.
  whole.sealed = Value::Map{{"sizes", std::move(sizes)}, {"needed", body.needed}, {"digest", sha256(payload)}};
  return whole;
}

OpenedSegment open_segment(const HookPair& hooks, const ChannelSegmentReceived& segment) {
  std::string failed;
  auto content = run(hooks.decrypt, segment.payload, failed);
  Body body;
  body.with("channel_id", segment.channel_id).with("message_id", segment.message_id).with_some("error", failed);
  return {std::move(body), std::move(content)};
}

}  // namespace logos
