// A reader's position in one of the kernel's streams, and what to do with each event. No I/O.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "held.hpp"

namespace logos {

enum class Verdict {
  kKeep,
  kSkip,
  kCatchUp  // something before it is missing; a replay brings it all
};

class StreamCursor {
 public:
  StreamCursor(std::string stream, std::uint64_t held_bytes) : stream(std::move(stream)), held(held_bytes) {}

  [[nodiscard]] bool is_messages() const { return stream.starts_with("m/"); }
  /// Start behind `last`, unless a position is followed already.
  void start(const Id& instance, const Epoch& epoch, std::uint64_t last);
  Verdict live(const KernelPosition& event);
  /// Its seq is the last one assigned, and not its own.
  Verdict heartbeat(const KernelPosition& at);
  Verdict replayed(const KernelPosition& event) { return judge(event, false); }

  /// Follow another epoch from its first event. How many of the old one are lost is unknown.
  void restart(const Id& instance, const Epoch& epoch, const std::string& reason);
  /// Events up to `last` are lost.
  void give_up(std::uint64_t last, const std::string& reason);
  /// Events up to `last` are replaced by a snapshot.
  void jump(std::uint64_t last);

  std::string stream;
  Id instance{};
  Epoch epoch{};
  std::uint64_t last = 0;     // kept
  std::uint64_t highest = 0;  // known to exist in this epoch
  bool behind = false;        // a replay is in progress: live events are held, or left to it
  HeldEvents held;
  bool heard = false;         // a heartbeat has come: the subscription is in force
  std::vector<StreamLoss> losses;

 private:
  Verdict judge(const KernelPosition& event, bool heartbeat);

  bool started_ = false;
};

}  // namespace logos
