// Asks a server's control socket whether it is there.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "loop.hpp"

namespace logos {

/// On the loop's thread.
class ControlProbe {
 public:
  explicit ControlProbe(Loop& loop) : loop_(loop) {}

  /// Whether anything answers at the endpoint within a second; one question for all callers meanwhile.
  void ask(const std::string& endpoint, std::function<void(bool)> done);
  /// Callers that wait get no answer.
  void close();

 private:
  void end(bool answers);

  Loop& loop_;
  zmq::socket_t socket_;
  std::optional<Loop::Timer> timer_;
  std::vector<std::function<void(bool)>> waiting_;
};

}  // namespace logos
