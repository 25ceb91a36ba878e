// MessagePack within a bound of its own: headers and bodies have different ones.
#pragma once

#include "logos/value.hpp"

namespace logos {

/// As `unpack`, of at most so many bytes.
Value unpack_within(BytesView packed, std::size_t most);

}  // namespace logos
