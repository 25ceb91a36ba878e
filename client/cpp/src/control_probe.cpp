#include "control_probe.hpp"

#include <utility>

#include "connection.hpp"

namespace logos {
namespace {

using namespace std::chrono_literals;

constexpr auto kTimeout = 1s;

}  // namespace

void ControlProbe::ask(const std::string& endpoint, std::function<void(bool)> done) {
  waiting_.push_back(std::move(done));
  if (socket_) return;
  socket_ = zmq::socket_t(loop_.context, zmq::socket_type::dealer);
  socket_.set(zmq::sockopt::linger, kDealerLinger);
  socket_.connect(endpoint);
  const Bytes header = encode_request_header(random_id(), "health", std::chrono::milliseconds(kTimeout).count(), 0);
  const Bytes body = pack(Value::Map{});
  socket_.send(zmq::const_buffer(kMagic.data(), kMagic.size()), zmq::send_flags::sndmore);
  socket_.send(zmq::const_buffer(header.data(), header.size()), zmq::send_flags::sndmore);
  socket_.send(zmq::const_buffer(body.data(), body.size()));
  timer_ = loop_.after(kTimeout, [this] {
    timer_.reset();
    end(false);
  });
  loop_.watch(socket_, [this] {
    zmq::message_t frame;
    if (socket_.recv(frame, zmq::recv_flags::dontwait)) end(true);
  });
}

void ControlProbe::end(bool answers) {
  auto waiting = std::exchange(waiting_, {});
  close();
  for (const auto& done : waiting) done(answers);
}

void ControlProbe::close() {
  waiting_.clear();
  if (timer_) loop_.cancel(*timer_);
  timer_.reset();
  if (socket_) loop_.unwatch(socket_);
  socket_.close();
}

}  // namespace logos
