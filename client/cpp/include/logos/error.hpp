// The one kind of exception for what happens outside of this library; wrong arguments that no server needs to see are
// `std::invalid_argument`.
#pragma once

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "logos/contract.hpp"

namespace logos {

/// `bad_request`, …
[[nodiscard]] LOGOS_CLIENT_API std::string_view code_name(ErrorCode code);

/// What a server answered, what became of a connection, or frames that are not what the contract says.
class LOGOS_CLIENT_API Error : public std::runtime_error {
 public:
  /// `retriable`: without it the contract's table decides.
  Error(ErrorCode code, const std::string& message, std::optional<bool> retriable = std::nullopt,
        std::optional<std::chrono::milliseconds> retry_after = std::nullopt, Value detail = {});

  [[nodiscard]] ErrorCode code() const noexcept { return code_; }
  /// Whether the same request may succeed later.
  [[nodiscard]] bool retriable() const noexcept { return retriable_; }
  /// When, where the server says so.
  [[nodiscard]] std::optional<std::chrono::milliseconds> retry_after() const noexcept { return retry_after_; }
  /// For people: `what()` without the code before it.
  [[nodiscard]] std::string_view message() const noexcept;
  /// What else the server said: a map, or nil.
  [[nodiscard]] const Value& detail() const noexcept { return detail_; }

 private:
  ErrorCode code_;
  bool retriable_;
  std::optional<std::chrono::milliseconds> retry_after_;
  Value detail_;
};

}  // namespace logos
