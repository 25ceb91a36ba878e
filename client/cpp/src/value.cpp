#include "logos/value.hpp"

#define MSGPACK_NO_BOOST 1
#include <cmath>
#include <limits>
#include <msgpack.hpp>

#include "contract_fields.hpp"
#include "logos/error.hpp"
#include "packing.hpp"
#include "text.hpp"

namespace logos {
namespace {

[[noreturn]] void refuse(const char* reason) {
  throw Error(ErrorCode::kBadRequest, std::string("MessagePack: ") + reason);
}

/// Builds a value while the parser reads; its callbacks return whether to go on.
class Builder : public msgpack::null_visitor {
 public:
  explicit Builder(std::size_t bytes) : bytes_(bytes) {}
  Value root;

  bool visit_nil() { return put(Value()); }
  bool visit_boolean(bool value) { return put(value); }
  bool visit_positive_integer(std::uint64_t value) { return put(value); }
  bool visit_negative_integer(std::int64_t value) { return put(value); }
  bool visit_float32(float value) { return put(static_cast<double>(value)); }
  bool visit_float64(double value) { return put(value); }
  bool visit_str(const char* data, std::uint32_t size) {
    const std::string_view text(data, size);
    if (!is_utf8(text)) refuse("text that is not UTF-8");
    return put(text);
  }
  bool visit_bin(const char* data, std::uint32_t size) { return put(as_bytes({data, size})); }
  bool visit_ext(const char*, std::uint32_t) { refuse("an extension type"); }
  bool start_array(std::uint32_t size) {
    Value::Array array;
    array.reserve(claim(size));
    return open(std::move(array));
  }
  bool end_array() { return close(); }
  bool start_map(std::uint32_t size) {
    Value::Map map;
    map.reserve(claim(size));
    return open(std::move(map));
  }
  bool end_map() { return close(); }
  bool start_map_key() { return in_key_ = true; }
  bool end_map_key() {
    in_key_ = false;
    return true;
  }
  void parse_error(std::size_t, std::size_t) { refuse("malformed"); }
  void insufficient_bytes(std::size_t, std::size_t) { refuse("cut off"); }

 private:
  /// A container may not claim more elements than there are bytes: memory would be taken for nothing.
  std::size_t claim(std::uint32_t size) {
    if (size > kMaxItems || size > bytes_) refuse("too many elements");
    if (++containers_ > kMaxContainers) refuse("too many arrays and maps");
    if (stack_.size() >= kMaxDepth) refuse("nested too deeply");
    if (in_key_) refuse("a map key that is not text");
    return size;
  }

  template <class T>
  bool put(T&& content) {
    place(Value(std::forward<T>(content)));
    return true;
  }

  Value& place(Value&& value) {
    if (stack_.empty()) return root = std::move(value);
    if (auto* array = std::get_if<Value::Array>(&stack_.back()->data)) return array->emplace_back(std::move(value));
    auto& map = std::get<Value::Map>(stack_.back()->data);
    if (!in_key_) return map.back().second = std::move(value);
    auto* key = std::get_if<std::string>(&value.data);
    if (key == nullptr) refuse("a map key that is not text");
    return map.emplace_back(std::move(*key), Value()).second;
  }

  // Only the innermost container grows, so the pointers to the outer ones stay valid.
  bool open(Value&& container) {
    stack_.push_back(&place(std::move(container)));
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }

  std::size_t bytes_;
  std::vector<Value*> stack_;
  std::size_t containers_ = 0;
  bool in_key_ = false;
};

struct Sink {
  Bytes bytes;
  void write(const char* data, std::size_t size) { bytes.insert(bytes.end(), data, data + size); }
};

using Packer = msgpack::packer<Sink>;

void write(Packer& packer, const Value& value);

struct Writer {
  Packer& packer;
  void operator()(std::monostate) const { packer.pack_nil(); }
  void operator()(bool value) const { value ? packer.pack_true() : packer.pack_false(); }
  void operator()(std::int64_t value) const { packer.pack_int64(value); }
  void operator()(std::uint64_t value) const { packer.pack_uint64(value); }
  void operator()(double value) const { packer.pack_double(value); }
  void operator()(const std::string& text) const {
    packer.pack_str(static_cast<std::uint32_t>(text.size()));
    packer.pack_str_body(text.data(), static_cast<std::uint32_t>(text.size()));
  }
  void operator()(const Bytes& bytes) const {
    packer.pack_bin(static_cast<std::uint32_t>(bytes.size()));
    packer.pack_bin_body(reinterpret_cast<const char*>(bytes.data()), static_cast<std::uint32_t>(bytes.size()));
  }
  void operator()(const Value::Array& array) const {
    packer.pack_array(static_cast<std::uint32_t>(array.size()));
    for (const Value& item : array) write(packer, item);
  }
  void operator()(const Value::Map& map) const {
    packer.pack_map(static_cast<std::uint32_t>(map.size()));
    for (const auto& [key, item] : map) {
      (*this)(key);
      write(packer, item);
    }
  }
};

void write(Packer& packer, const Value& value) { std::visit(Writer{packer}, value.data); }

}  // namespace

const Value* Value::find(std::string_view key) const {
  const auto* map = get<Map>();
  if (map == nullptr) return nullptr;
  for (auto entry = map->rbegin(); entry != map->rend(); ++entry) {
    if (entry->first == key) return entry->second.is_nil() ? nullptr : &entry->second;
  }
  return nullptr;
}

Bytes pack(const Value& value) {
  Sink sink;
  Packer packer(sink);
  write(packer, value);
  return std::move(sink.bytes);
}

Value unpack_within(BytesView packed, std::size_t most) {
  if (packed.size() > most) refuse("too large");
  Builder builder(packed.size());
  std::size_t offset = 0;
  const auto* data = reinterpret_cast<const char*>(packed.data());
  if (packed.empty()) refuse("cut off");
  msgpack::parse(data, packed.size(), offset, builder);
  if (offset != packed.size()) refuse("bytes behind the value");
  return std::move(builder.root);
}

Value unpack(BytesView packed) { return unpack_within(packed, kMaxBody); }

std::string to_hex(BytesView bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(bytes.size() * 2);
  for (const std::uint8_t byte : bytes) {
    hex.push_back(kDigits[byte >> 4]);
    hex.push_back(kDigits[byte & 15]);
  }
  return hex;
}

}  // namespace logos
