// Values as JSON, as the conformance kit and the vectors have them: bytes are hex.
#pragma once

#include <nlohmann/json.hpp>

#include "logos/value.hpp"

inline nlohmann::json as_json(const logos::Value& value) {
  using nlohmann::json;
  return std::visit(
      [](const auto& one) -> json {
        using T = std::decay_t<decltype(one)>;
        if constexpr (std::is_same_v<T, std::monostate>) {
          return nullptr;
        } else if constexpr (std::is_same_v<T, logos::Bytes>) {
          return logos::to_hex(one);
        } else if constexpr (std::is_same_v<T, logos::Value::Array>) {
          json array = json::array();
          for (const auto& item : one) array.push_back(as_json(item));
          return array;
        } else if constexpr (std::is_same_v<T, logos::Value::Map>) {
          json object = json::object();
          for (const auto& [key, item] : one) object[key] = as_json(item);
          return object;
        } else {
          return one;
        }
      },
      value.data);
}

inline logos::Bytes from_hex(const std::string& hex) {
  logos::Bytes bytes;
  for (std::size_t at = 0; at + 1 < hex.size(); at += 2) {
    bytes.push_back(static_cast<std::uint8_t>(std::stoi(hex.substr(at, 2), nullptr, 16)));
  }
  return bytes;
}
