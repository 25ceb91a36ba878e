#include "logos/error.hpp"

#include "contract_fields.hpp"

namespace logos {

std::string_view code_name(ErrorCode code) { return kCodes[static_cast<std::size_t>(code)].name; }

Error::Error(ErrorCode code, const std::string& message, std::optional<bool> retriable,
             std::optional<std::chrono::milliseconds> retry_after, Value detail)
    : std::runtime_error(std::string(code_name(code)) + ": " + message),
      code_(code),
      retriable_(retriable.value_or(kCodes[static_cast<std::size_t>(code)].retriable)),
      retry_after_(retry_after),
      detail_(std::move(detail)) {}

std::string_view Error::message() const noexcept {
  return std::string_view(what()).substr(code_name(code_).size() + 2);
}

}  // namespace logos
