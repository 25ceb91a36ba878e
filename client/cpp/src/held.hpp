// Live events that come while earlier ones are replayed. No I/O.
#pragma once

#include <deque>
#include <vector>

#include "frames.hpp"

namespace logos {

/// Approximate memory of an event: something besides its payload, so that many small ones count too.
std::uint64_t cost_of(const KernelEvent& event);

/// The newest run of events without a gap, within `max_bytes`: beyond it, it begins again. Without them each replay would
/// miss what comes before its answer, and a busy stream would be replayed on and on.
class HeldEvents {
 public:
  explicit HeldEvents(std::uint64_t max_bytes) : max_bytes_(max_bytes) {}

  /// Hold an event of the stream. Returns how many are dropped for it.
  std::size_t add(KernelEventFrames&& frames);
  /// Those that follow `last` without a gap, none of which is held any more. Empty: there are none.
  std::vector<KernelEventFrames> take(const Id& instance, const Epoch& epoch, std::uint64_t last);
  /// Drop all of them. Returns how many.
  std::size_t clear();

  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  std::uint64_t max_bytes_;
  std::uint64_t bytes_ = 0;
  std::deque<KernelEventFrames> events_;
};

}  // namespace logos
