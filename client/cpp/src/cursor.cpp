#include "cursor.hpp"

#include <algorithm>

namespace logos {

void StreamCursor::start(const Id& at_instance, const Epoch& at_epoch, std::uint64_t behind_seq) {
  if (started_) return;
  started_ = true;
  instance = at_instance;
  epoch = at_epoch;
  last = highest = behind_seq;
}

Verdict StreamCursor::live(const KernelPosition& event) {
  start(event.instance, event.epoch, event.seq == 0 ? 0 : event.seq - 1);
  return behind ? Verdict::kSkip : judge(event, false);
}

Verdict StreamCursor::heartbeat(const KernelPosition& at) {
  heard = true;
  start(at.instance, at.epoch, at.seq);
  if (behind) return Verdict::kSkip;
  return judge(at, true) == Verdict::kCatchUp ? Verdict::kCatchUp : Verdict::kSkip;
}

Verdict StreamCursor::judge(const KernelPosition& event, bool heartbeat) {
  if (event.instance != instance || event.epoch != epoch) {
    restart(event.instance, event.epoch, "the kernel restarted this stream");
  }
  if (event.seq <= last) return Verdict::kSkip;
  highest = std::max(highest, event.seq);
  if (heartbeat || event.seq > last + 1) return Verdict::kCatchUp;
  last = event.seq;
  return Verdict::kKeep;
}

void StreamCursor::restart(const Id& at_instance, const Epoch& at_epoch, const std::string& reason) {
  losses.push_back({stream, last + 1, std::nullopt, reason});
  instance = at_instance;
  epoch = at_epoch;
  last = highest = 0;
}

void StreamCursor::give_up(std::uint64_t to, const std::string& reason) {
  if (to <= last) return;
  losses.push_back({stream, last + 1, to, reason});
  jump(to);
}

void StreamCursor::jump(std::uint64_t to) {
  last = std::max(last, to);
  highest = std::max(highest, to);
}

}  // namespace logos
