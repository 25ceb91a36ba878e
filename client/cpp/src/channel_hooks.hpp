// Encryption of a channel's segments by functions of the app (ipc_schema/SPEC.md, §4.5, hooks). No I/O.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "logos/messaging.hpp"

namespace logos {

struct HookPair {
  Hook encrypt;
  Hook decrypt;
};

/// The hooks of one app's channels. They outlive connections and channels.
class ChannelHooks {
 public:
  void set(const std::string& channel_id, HookPair pair) {
    pairs_.insert_or_assign(channel_id, std::make_shared<const HookPair>(std::move(pair)));
  }
  /// Throws `Error` (`kBadRequest`) where there are none.
  void clear(const std::string& channel_id);
  /// Null: there are none. The caller may call them without a lock.
  [[nodiscard]] std::shared_ptr<const HookPair> find(const std::string& channel_id) const;

 private:
  std::map<std::string, std::shared_ptr<const HookPair>> pairs_;
};

/// A payload's encrypted segments, and the key `sealed` of `channel.send`.
struct SealedPayload {
  Bytes data;
  Value sealed;
};

/// Encrypt the segments that `channel.split` has made of a payload. Throws `Error` (`kBadRequest`) if the hook throws.
SealedPayload seal_payload(const HookPair& hooks, BytesView payload, const Reply& split);

/// What `channel.opened` says of a segment: its content, or in the body why there is none.
struct OpenedSegment {
  Value body;
  std::optional<Bytes> content;
};

OpenedSegment open_segment(const HookPair& hooks, const ChannelSegmentReceived& segment);

}  // namespace logos
