#include "frames.hpp"

#include "fields.hpp"
#include "packing.hpp"

namespace logos {
namespace {

constexpr std::size_t kMaxHeader = 4096;
constexpr std::uint64_t kMessage = 1;
constexpr std::uint64_t kHealth = 2;
constexpr std::uint64_t kPeer = 3;

void need(bool condition, const char* reason) {
  if (!condition) throw Error(ErrorCode::kBadRequest, reason);
}

bool is_magic(BytesView frame) { return as_text(frame) == kMagic; }

template <class T>
T element(const Value::Array& row, std::size_t index, std::string_view name) {
  T value;
  read(row[index], value, Field{}, name);
  return value;
}

}  // namespace

Bytes encode_request_header(const Id& id, std::string_view method, std::uint64_t budget_ms, std::uint64_t flags) {
  return pack(Value::Array{id, method, budget_ms, flags});
}

Error read_error(const Value& body) {
  const Value* code = body.find("code");
  const Value* message = body.find("message");
  need(code != nullptr && code->get<std::string>() != nullptr, "error: code is not a text");
  need(message != nullptr && message->get<std::string>() != nullptr, "error: message is not a text");
  const std::string& name = *code->get<std::string>();
  std::string text = *message->get<std::string>();
  ErrorCode known = ErrorCode::kInternal;
  bool found = false;
  for (std::size_t index = 0; index < std::size(kCodes) && !found; ++index) {
    if (kCodes[index].name == name) {
      known = static_cast<ErrorCode>(index);
      found = true;
    }
  }
  if (!found) text = name + ": " + text;
  std::optional<bool> retriable;
  if (const Value* said = body.find("retriable")) read(*said, retriable.emplace(), Field{}, "error: retriable");
  std::optional<std::chrono::milliseconds> retry_after;
  if (const Value* said = body.find("retry_after_ms")) {
    std::uint64_t wait = 0;
    read(*said, wait, Field{}, "error: retry_after_ms");
    retry_after = std::chrono::milliseconds(wait);
  }
  const Value* detail = body.find("detail");
  need(detail == nullptr || detail->get<Value::Map>() != nullptr, "error: detail is not a map");
  return {known, text, retriable, retry_after, detail == nullptr ? Value() : *detail};
}

ReplyFrames decode_reply(std::span<const BytesView> frames) {
  const std::size_t skipped = !frames.empty() && frames[0].empty() ? 1 : 0;  // the delimiter of a REQ
  const auto rest = frames.subspan(skipped);
  need(rest.size() >= 3 && is_magic(rest[0]), "not the frames of a reply");
  const Value header = unpack_within(rest[1], kMaxHeader);
  const auto* row = header.get<Value::Array>();
  need(row != nullptr && row->size() >= 3, "reply: the header is not an array of three");
  ReplyFrames reply;
  reply.id = element<Id>(*row, 0, "correlation id");
  const auto status = element<std::uint64_t>(*row, 1, "status");
  need(status <= 1, "reply: status is neither 0 nor 1");
  reply.instance = element<Id>(*row, 2, "instance");
  reply.body = unpack(rest[2]);
  need(reply.body.get<Value::Map>() != nullptr, "reply: the body is not a map");
  if (status == 1) reply.error = read_error(reply.body);
  reply.first_blob = skipped + 3;
  return reply;
}

bool is_app_event(std::span<const BytesView> frames) {
  return frames.size() > 1 && frames[1].size() > 1 && frames[1][1] == 1;
}

AppEventFrames decode_app_event(std::span<const BytesView> frames) {
  need(frames.size() >= 2 && is_magic(frames[0]), "not the frames of an event");
  const Value header = unpack_within(frames[1], kMaxEventHeader);
  const auto* row = header.get<Value::Array>();
  need(row != nullptr && row->size() >= 5, "event: the header is not an array of five");
  need((*row)[0] == Value(1), "event: 1 does not lead its header");
  AppEventFrames found;
  found.position = {element<Id>(*row, 1, "stream id"), element<std::uint64_t>(*row, 2, "seq"),
                    element<std::int64_t>(*row, 4, "time")};
  found.kind = element<std::uint64_t>(*row, 3, "kind");
  found.event = event_of_kind(found.kind);
  if (!found.event) return found;
  std::visit(
      [&](auto& event) {
        read_row(*row, 5, event);
        if constexpr (requires { event.stream_id; }) static_cast<EventPosition&>(event) = found.position;
        if constexpr (requires { event.payload; }) {
          if (frames.size() > 2) event.payload.assign(frames[2].begin(), frames[2].end());
        }
      },
      *found.event);
  return found;
}

std::optional<std::uint64_t> other_version(BytesView frame) {
  try {
    const Value header = unpack_within(frame, kMaxEventHeader);
    const auto* row = header.get<Value::Array>();
    if (row == nullptr || row->empty()) return std::nullopt;
    const auto version = element<std::uint64_t>(*row, 0, "version");
    return version == 1 ? std::nullopt : std::optional(version);
  } catch (const Error&) {
    return std::nullopt;
  }
}

KernelEventFrames decode_kernel_event(BytesView frame, BytesView payload) {
  const Value header = unpack_within(frame, kMaxEventHeader);
  const auto* row = header.get<Value::Array>();
  need(row != nullptr && row->size() >= 6, "kernel event: the header is not an array of six");
  need((*row)[0] == Value(1), "kernel event: the version of its header is not 1");
  KernelEventFrames found;
  found.kind = element<std::uint64_t>(*row, 1, "kind");
  found.position = {element<Id>(*row, 2, "instance"), element<Epoch>(*row, 3, "epoch"),
                    element<std::uint64_t>(*row, 4, "seq"), element<std::int64_t>(*row, 5, "time")};
  const auto fill = [&]<class T>(T event) {
    read_row(*row, 6, event);
    static_cast<KernelPosition&>(event) = found.position;
    return event;
  };
  if (found.kind == 0) {
    need(row->size() > 6, "heartbeat: covered is missing");
    found.covered = element<bool>(*row, 6, "covered");
  } else if (found.kind == kMessage) {
    auto message = fill(KernelMessage{});
    message.payload.assign(payload.begin(), payload.end());
    found.event = std::move(message);
  } else if (found.kind == kHealth) {
    found.event = fill(HealthEvent{});
  } else if (found.kind == kPeer) {
    found.event = fill(PeerEvent{});
  }
  return found;
}

namespace {

template <class Variant>
Value as_value(const Variant& event) {
  return std::visit(
      [](const auto& one) {
        Value::Map map{{"event", Value(one.kKind)}};
        if constexpr (requires { one.stream; }) map.emplace_back("stream", one.stream);
        if constexpr (requires { one.stream_id; }) map.emplace_back("stream_id", one.stream_id);
        if constexpr (requires { one.epoch; }) {
          map.emplace_back("instance", one.instance);
          map.emplace_back("epoch", one.epoch);
        }
        if constexpr (requires { one.time_ns; }) {
          map.emplace_back("seq", one.seq);
          map.emplace_back("time_ns", one.time_ns);
        }
        fields(one, [&](std::string_view name, const auto& member, Field) {
          if (name != "stream") map.emplace_back(name, to_value(member));
        });
        if constexpr (requires { one.payload; }) map.emplace_back("payload", one.payload);
        return Value(std::move(map));
      },
      event);
}

}  // namespace

Value event_value(const Event& event) { return as_value(event); }
Value event_value(const KernelEvent& event) { return as_value(event); }

}  // namespace logos
