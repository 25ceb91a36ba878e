// Texts that go to other programs: UTF-8 within a bound.
#pragma once

#include <string_view>

namespace logos {

[[nodiscard]] bool is_utf8(std::string_view text);
/// At most so many bytes of a text, whole characters.
[[nodiscard]] std::string_view cut(std::string_view text, std::size_t most);

}  // namespace logos
