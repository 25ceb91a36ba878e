// Values of MessagePack, and the names that the contract's types are made of.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "logos/export.hpp"

namespace logos {

using Bytes = std::vector<std::uint8_t>;
using BytesView = std::span<const std::uint8_t>;
/// A stream's, instance's or request's id.
using Id = std::array<std::uint8_t, 16>;
/// A message hash.
using Hash = std::array<std::uint8_t, 32>;
using Epoch = std::array<std::uint8_t, 8>;

/// The bytes of a text, for payloads.
inline BytesView as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}
/// The text of bytes, as they are.
inline std::string_view as_text(BytesView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
/// Lower-case hex.
LOGOS_CLIENT_API std::string to_hex(BytesView bytes);

/// Any value of MessagePack that the contract uses. A map keeps the order of its keys.
class Value {
 public:
  using Array = std::vector<Value>;
  using Map = std::vector<std::pair<std::string, Value>>;
  /// `std::uint64_t` is there for integers beyond 2^63 - 1 only.
  using Variant = std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double, std::string, Bytes,
                               Array, Map>;

  Value() = default;
  Value(bool value) : data(value) {}
  Value(int value) : data(std::int64_t{value}) {}
  Value(std::int64_t value) : data(value) {}
  Value(std::uint32_t value) : data(std::int64_t{value}) {}
  Value(std::uint64_t value) {
    if (value <= static_cast<std::uint64_t>(INT64_MAX)) {
      data = static_cast<std::int64_t>(value);
    } else {
      data = value;
    }
  }
  Value(double value) : data(value) {}
  Value(std::string value) : data(std::move(value)) {}
  Value(std::string_view value) : data(std::string(value)) {}
  Value(const char* value) : data(std::string(value)) {}
  Value(Bytes value) : data(std::move(value)) {}
  Value(BytesView value) : data(Bytes(value.begin(), value.end())) {}
  template <std::size_t N>
  Value(const std::array<std::uint8_t, N>& value) : data(Bytes(value.begin(), value.end())) {}
  Value(Array value) : data(std::move(value)) {}
  Value(Map value) : data(std::move(value)) {}
  Value(const std::vector<std::string>& texts) : data(Array(texts.begin(), texts.end())) {}

  [[nodiscard]] bool is_nil() const { return std::holds_alternative<std::monostate>(data); }
  /// The content if it is of that type, else null.
  template <class T>
  [[nodiscard]] const T* get() const {
    return std::get_if<T>(&data);
  }
  /// Of a map: the value of a key, null if there is none or it is nil. Of a repeated key the last one.
  [[nodiscard]] LOGOS_CLIENT_API const Value* find(std::string_view key) const;

  friend bool operator==(const Value&, const Value&) = default;

  Variant data;
};

/// One value, in the shortest form.
LOGOS_CLIENT_API Bytes pack(const Value& value);
/// Exactly one value. Throws `Error` (`kBadRequest`) for anything else, and beyond the contract's limits.
LOGOS_CLIENT_API Value unpack(BytesView packed);

}  // namespace logos
