#include "held.hpp"

#include <algorithm>
#include <iterator>

namespace logos {
namespace {

constexpr std::uint64_t kOverhead = 512;

bool same_stream(const KernelPosition& at, const Id& instance, const Epoch& epoch) {
  return at.instance == instance && at.epoch == epoch;
}

}  // namespace

std::uint64_t cost_of(const KernelEvent& event) {
  const auto* message = std::get_if<KernelMessage>(&event);
  return kOverhead + (message == nullptr ? 0 : message->payload.size());
}

std::size_t HeldEvents::add(KernelEventFrames&& frames) {
  std::size_t dropped = 0;
  if (!events_.empty()) {
    const KernelPosition& last = events_.back().position;
    const bool follows =
        same_stream(last, frames.position.instance, frames.position.epoch) && last.seq + 1 == frames.position.seq;
    if (!follows || bytes_ >= max_bytes_) dropped = clear();
  }
  bytes_ += frames.event ? cost_of(*frames.event) : kOverhead;
  events_.push_back(std::move(frames));
  return dropped;
}

std::vector<KernelEventFrames> HeldEvents::take(const Id& instance, const Epoch& epoch, std::uint64_t last) {
  if (events_.empty()) return {};
  const KernelPosition& first = events_.front().position;
  if (!same_stream(first, instance, epoch) || first.seq > last + 1) return {};
  const auto begin = std::ranges::find_if(events_, [last](const auto& one) { return one.position.seq > last; });
  std::vector<KernelEventFrames> found(std::make_move_iterator(begin), std::make_move_iterator(events_.end()));
  if (!found.empty()) clear();
  return found;
}

std::size_t HeldEvents::clear() {
  const std::size_t dropped = events_.size();
  events_.clear();
  bytes_ = 0;
  return dropped;
}

}  // namespace logos
