// Frames of the contract as a client sees them: requests out, replies and events in. No I/O.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "logos/contract.hpp"
#include "logos/error.hpp"

namespace logos {

inline constexpr std::string_view kMagic = "LD1";
inline constexpr std::uint64_t kNoReply = 1;

/// The version of a kernel's event header that is of another one than ours: nothing behind it can be read.
std::optional<std::uint64_t> other_version(BytesView frame);

/// The header of a request; the frames are `LD1`, this, the packed body, and the blobs.
Bytes encode_request_header(const Id& id, std::string_view method, std::uint64_t budget_ms, std::uint64_t flags);

struct ReplyFrames {
  Id id{};
  Id instance{};
  Value body;
  std::optional<Error> error;
  std::size_t first_blob = 0;  // index of its frame
};

/// Throws `Error` (`kBadRequest`).
ReplyFrames decode_reply(std::span<const BytesView> frames);

/// Whether frames are an event of the app's stream: an integer leads its header, and a reply's a correlation id.
bool is_app_event(std::span<const BytesView> frames);

/// What an app's stream carries. `event` is empty for a heartbeat and for kinds of later versions.
struct AppEventFrames {
  EventPosition position;
  std::uint64_t kind = 0;
  std::optional<Event> event;
};

/// Throws `Error` (`kBadRequest`).
AppEventFrames decode_app_event(std::span<const BytesView> frames);

/// What one of the kernel's streams carries. `event` is empty for a heartbeat and for kinds of later versions.
struct KernelEventFrames {
  KernelPosition position;
  std::uint64_t kind = 0;
  bool covered = false;  // of a heartbeat
  std::optional<KernelEvent> event;
};

/// F1 and F2 of an event. Throws `Error` (`kBadRequest`).
KernelEventFrames decode_kernel_event(BytesView header, BytesView payload);

/// An event as a map: `event` (its kind), then its fields under the contract's names.
Value event_value(const Event& event);
Value event_value(const KernelEvent& event);

/// The error that the body of a reply with status 1 has. Throws `Error` (`kBadRequest`).
Error read_error(const Value& body);

}  // namespace logos
