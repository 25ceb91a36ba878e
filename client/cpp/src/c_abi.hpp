// What the parts of the C ABI share: handles, errors instead of exceptions, arguments with explicit lengths.
#pragma once

#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

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

namespace logos::abi {

/// Fill in an error, which may be null. Returns `code`.
std::int32_t say(logos_error* error, std::int32_t code, std::string_view name, std::string_view message,
                 bool retriable = false, std::int64_t retry_after_ms = -1);
std::int32_t say(logos_error* error, const Error& what);
/// `LOGOS_EVENT_…`, `LOGOS_KERNEL_…`.
std::int32_t number(const Event& event);
std::int32_t number(const KernelEvent& event);

/// Run what may throw; its code.
template <class Work>
std::int32_t guarded(logos_error* error, Work work) noexcept {
  try {
    if (error != nullptr) *error = logos_error{LOGOS_OK, 0, -1, {}, {}};
    work();
    return LOGOS_OK;
  } catch (const Error& what) {
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

inline void need(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

inline BytesView view(const uint8_t* data, size_t size) {
  need(data != nullptr || size == 0, "bytes: NULL with a length");
  return {data, size};
}

inline Milliseconds limit(std::int64_t timeout_ms) { return timeout_ms < 0 ? kDefaultTimeout : Milliseconds(timeout_ms); }

inline std::string text(const char* value, const char* what) {
  need(value != nullptr, what);
  return value;
}

inline void give(logos_reply** into, Reply&& reply) {
  if (into != nullptr) *into = new logos_reply{pack(reply.body), std::move(reply.blobs)};
}

template <class Client>
void call(Client& client, const char* method, logos_bytes body, const logos_bytes* blobs, size_t blob_count,
          int64_t timeout_ms, logos_reply** reply) {
  need(blobs != nullptr || blob_count == 0, "blobs: NULL");
  std::vector<BytesView> all;
  for (size_t index = 0; index < blob_count; ++index) all.push_back(view(blobs[index].data, blobs[index].size));
  const Value packed = body.size == 0 ? Value(Value::Map{}) : unpack(view(body.data, body.size));
  give(reply, client.call(text(method, "method: NULL"), packed, all, limit(timeout_ms)));
}

template <class Source>
void next(Source& source, int64_t timeout_ms, logos_event** into) {
  need(into != nullptr, "event: NULL");
  *into = nullptr;
  const auto timeout = timeout_ms < 0 ? std::nullopt : std::optional(Milliseconds(timeout_ms));
  const auto event = source.next_event(timeout);
  if (!event) return;
  *into = new logos_event{number(*event), std::string(kind_of(*event)), to_value(*event), {}};
}

}  // namespace logos::abi
