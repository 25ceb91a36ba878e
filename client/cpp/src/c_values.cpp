// The C ABI: events, replies and errors.
#include <cstring>

#include "c_abi.hpp"
#include "contract_fields.hpp"
#include "text.hpp"

namespace logos::abi {
namespace {

// `Event` has no heartbeat, so a kind's number is its place + 1 up to the contract's last; then come the client's own.
static_assert(std::variant_size_v<Event> ==
              kAppEventKinds + (LOGOS_EVENT_LINK_RESTORED - LOGOS_EVENT_LINK_LOST + 1));
static_assert(static_cast<int>(ErrorCode::kInternal) + 1 == LOGOS_INTERNAL);

template <std::size_t N>
void copy_text(char (&into)[N], std::string_view text) {
  text = cut(text, N - 1);
  std::memcpy(into, text.data(), text.size());
  into[text.size()] = '\0';
}

}  // namespace

std::int32_t number(const Event& event) {
  const std::size_t place = event.index();
  return static_cast<std::int32_t>(place < kAppEventKinds ? place + 1 : place - kAppEventKinds + LOGOS_EVENT_LINK_LOST);
}
std::int32_t number(const KernelEvent& event) {
  return static_cast<std::int32_t>(event.index()) + LOGOS_KERNEL_MESSAGE;
}

std::int32_t say(logos_error* error, std::int32_t code, std::string_view name, std::string_view message,
                 bool retriable, std::int64_t retry_after_ms) {
  if (error != nullptr) {
    error->code = code;
    error->retriable = retriable ? 1 : 0;
    error->retry_after_ms = retry_after_ms;
    copy_text(error->name, name);
    copy_text(error->message, message);
  }
  return code;
}

std::int32_t say(logos_error* error, const Error& what) {
  return say(error, static_cast<std::int32_t>(what.code()) + 1, code_name(what.code()), what.message(),
             what.retriable(), what.retry_after().value_or(Milliseconds(-1)).count());
}

}  // namespace logos::abi

namespace {

using logos::Bytes;
using logos::Value;
using logos::abi::guarded;

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
