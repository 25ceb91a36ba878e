// Checked reading and writing of the contract's types, by the descriptions in contract_fields.hpp.
#pragma once

#include <cmath>
#include <string>
#include <type_traits>

#include "contract_fields.hpp"
#include "logos/error.hpp"

namespace logos {

[[noreturn]] inline void refuse_field(std::string_view name, std::string_view expected) {
  throw Error(ErrorCode::kBadRequest, std::string(name) + ": " + std::string(expected) + " is expected");
}

template <class T>
concept Described = requires(T& one) { fields(one, [](auto&&...) {}); };

inline void read(const Value& value, bool& into, Field, std::string_view name) {
  const bool* found = value.get<bool>();
  if (found == nullptr) refuse_field(name, "a boolean");
  into = *found;
}
inline void read(const Value& value, std::int64_t& into, Field, std::string_view name) {
  const auto* found = value.get<std::int64_t>();
  if (found == nullptr) refuse_field(name, "an integer of 64 bits");
  into = *found;
}
inline void read(const Value& value, std::uint64_t& into, Field, std::string_view name) {
  const auto* found = value.get<std::int64_t>();
  if (found == nullptr || *found < 0) refuse_field(name, "an integer from 0 to 2^63 - 1");
  into = static_cast<std::uint64_t>(*found);
}
inline void read(const Value& value, std::uint32_t& into, Field, std::string_view name) {
  const auto* found = value.get<std::int64_t>();
  if (found == nullptr || *found < 0 || *found > UINT32_MAX) refuse_field(name, "an integer from 0 to 2^32 - 1");
  into = static_cast<std::uint32_t>(*found);
}
inline void read(const Value& value, double& into, Field, std::string_view name) {
  if (const auto* integer = value.get<std::int64_t>()) {
    into = static_cast<double>(*integer);
  } else if (const auto* number = value.get<double>()) {
    into = *number;
  } else {
    refuse_field(name, "a number");
  }
}
inline void read(const Value& value, std::string& into, Field field, std::string_view name) {
  const auto* found = value.get<std::string>();
  if (found == nullptr || found->size() > (field.bound != 0 ? field.bound : kMaxText)) refuse_field(name, "text");
  into = *found;
}
inline void read(const Value& value, Bytes& into, Field field, std::string_view name) {
  const auto* found = value.get<Bytes>();
  if (found == nullptr || (field.bound != 0 && found->size() > field.bound)) refuse_field(name, "bytes");
  into = *found;
}
template <std::size_t N>
void read(const Value& value, std::array<std::uint8_t, N>& into, Field, std::string_view name) {
  const auto* found = value.get<Bytes>();
  if (found == nullptr || found->size() != N) refuse_field(name, std::to_string(N) + " bytes");
  std::copy(found->begin(), found->end(), into.begin());
}
inline void read(const Value& value, Value& into, Field, std::string_view) { into = value; }
template <Described T>
void read(const Value& value, T& into, Field = {}, std::string_view name = "body");
template <class T>
void read(const Value& value, std::optional<T>& into, Field field, std::string_view name) {
  if (value.is_nil()) {
    into.reset();
  } else {
    read(value, into.emplace(), field, name);
  }
}
template <class A, class B>
void read(const Value& value, std::pair<A, B>& into, Field field, std::string_view name) {
  const auto* found = value.get<Value::Array>();
  if (found == nullptr || found->size() < 2) refuse_field(name, "an array of two");
  read((*found)[0], into.first, field, name);
  read((*found)[1], into.second, field, name);
}
template <class T>
void read(const Value& value, std::vector<T>& into, Field, std::string_view name) {
  const auto* found = value.get<Value::Array>();
  if (found == nullptr) refuse_field(name, "an array");
  into.resize(found->size());
  for (std::size_t index = 0; index < found->size(); ++index) read((*found)[index], into[index], Field{}, name);
}
template <class T>
void read(const Value& value, std::map<std::string, T>& into, Field, std::string_view name) {
  const auto* found = value.get<Value::Map>();
  if (found == nullptr) refuse_field(name, "a map");
  into.clear();
  for (const auto& [key, item] : *found) read(item, into[key], Field{}, name);
}
template <Described T>
void read(const Value& value, T& into, Field, std::string_view name) {
  if (value.get<Value::Map>() == nullptr) refuse_field(name, "a map");
  fields(into, [&](std::string_view key, auto& member, Field field) {
    if (const Value* found = value.find(key)) {
      read(*found, member, field, key);
    } else if (field.required) {
      refuse_field(key, "a value");
    }
  });
}

/// One key of a body.
template <class T>
T read_key(const Value& body, std::string_view key) {
  const Value* found = body.find(key);
  if (found == nullptr) refuse_field(key, "a value");
  T value;
  read(*found, value, Field{}, key);
  return value;
}

/// A body as its type.
template <Described T>
T read_body(const Value& body) {
  T one;
  read(body, one);
  return one;
}

/// The elements of an array from `first` on; without one, a field keeps its default if it has one.
template <Described T>
void read_row(const Value::Array& row, std::size_t first, T& into) {
  fields(into, [&](std::string_view name, auto& member, Field field) {
    if (first < row.size()) {
      read(row[first], member, field, name);
    } else if (field.required) {
      refuse_field(name, "a value");
    }
    ++first;
  });
}

template <class T>
Value to_value(const std::optional<T>& one);
template <class A, class B>
Value to_value(const std::pair<A, B>& one);
template <class T>
Value to_value(const std::vector<T>& all);
template <class T>
Value to_value(const std::map<std::string, T>& all);
inline Value to_value(const Bytes& bytes) { return Value(bytes); }
template <class T>
Value to_value(const T& one) {
  if constexpr (std::is_constructible_v<Value, const T&>) {
    return Value(one);
  } else if constexpr (Described<T>) {
    Value::Map map;
    fields(one, [&](std::string_view name, const auto& member, Field) { map.emplace_back(name, to_value(member)); });
    return map;
  } else {
    static_assert(std::is_same_v<T, void>, "no such type on the wire");
  }
}
template <class T>
Value to_value(const std::optional<T>& one) {
  return one ? to_value(*one) : Value();
}
template <class A, class B>
Value to_value(const std::pair<A, B>& one) {
  return Value::Array{to_value(one.first), to_value(one.second)};
}
template <class T>
Value to_value(const std::vector<T>& all) {
  Value::Array array;
  for (const T& one : all) array.push_back(to_value(one));
  return array;
}
template <class T>
Value to_value(const std::map<std::string, T>& all) {
  Value::Map map;
  for (const auto& [key, one] : all) map.emplace_back(key, to_value(one));
  return map;
}

}  // namespace logos
