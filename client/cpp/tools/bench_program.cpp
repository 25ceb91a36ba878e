// The C++ program of the benchmark `clients`; tests/bench/clients/driver.py has its command line.
#include <sys/resource.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "logos/messaging.hpp"

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kWindow = 64;
const std::string kTopic = "/bench/1/clients/plain";

double cpu_us() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto us = [](const timeval& time) { return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_usec); };
  return us(used.ru_utime) + us(used.ru_stime);
}

class Stopwatch {
 public:
  void done(std::vector<double> delays = {}) const {
    const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    std::printf("{\"event\": \"done\", \"seconds\": %.6f, \"cpu_us\": %.0f", seconds, cpu_us() - cpu_);
    if (!delays.empty()) {
      std::sort(delays.begin(), delays.end());
      const auto share = [&](double part) { return delays[static_cast<std::size_t>(part * static_cast<double>(delays.size() - 1))] * 1e6; };
      std::printf(", \"p50_us\": %.2f, \"p99_us\": %.2f", share(0.5), share(0.99));
    }
    std::printf("}\n");
  }

 private:
  double cpu_ = cpu_us();
  Clock::time_point start_ = Clock::now();
};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void client(const std::string& role, const std::string& endpoint, std::size_t count, std::size_t size) {
  using namespace std::chrono_literals;
  const logos::Bytes payload(size);
  logos::MessagingClient app(endpoint);
  if (role == "receive") {
    app.subscribe("/bench/1/" + std::to_string(count) + "/" + std::to_string(size));
    auto event = app.next_event(10s);
    const Stopwatch watch;
    for (std::size_t seq = 2; seq <= count; ++seq) {
      event = app.next_event(10s);
      const auto* message = std::get_if<logos::MessageReceived>(&event.value());
      if (message == nullptr || message->seq != seq) throw std::runtime_error("an event is missing");
    }
    watch.done();
  } else if (role == "send") {
    std::mutex mutex;
    std::condition_variable changed;
    std::size_t under_way = 0;
    std::string failure;
    const Stopwatch watch;
    for (std::size_t number = 0; number < count; ++number) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return under_way < kWindow; });
        ++under_way;
      }
      app.send_async(kTopic, payload, [&](const logos::Outcome& outcome) {
        const std::lock_guard lock(mutex);
        if (outcome.error) failure = outcome.error->what();
        --under_way;
        if (under_way == 0 || under_way + 1 == kWindow) changed.notify_one();
      });
    }
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return under_way == 0; });
    if (!failure.empty()) throw std::runtime_error(failure);
    watch.done();
  } else {
    std::vector<double> delays;
    const Stopwatch watch;
    for (std::size_t number = 0; number < count; ++number) {
      const auto start = Clock::now();
      app.send(kTopic, payload);
      delays.push_back(seconds_since(start));
    }
    watch.done(std::move(delays));
  }
}

/// The bare loop.
class Dealer {
 public:
  explicit Dealer(const std::string& endpoint) : socket_(context_, zmq::socket_type::dealer) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.connect(endpoint);
  }
  void send(const std::vector<logos::Bytes>& frames) {
    for (std::size_t index = 0; index < frames.size(); ++index) {
      const auto flags = index + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none;
      socket_.send(zmq::const_buffer(frames[index].data(), frames[index].size()), flags);
    }
  }
  void receive() {
    do {
      (void)socket_.recv(part_);
    } while (part_.more());
  }

 private:
  zmq::context_t context_;
  zmq::socket_t socket_;
  zmq::message_t part_;
};

logos::Bytes text(std::string_view content) { return {content.begin(), content.end()}; }

void bare(const std::string& role, const std::string& endpoint, std::size_t count, std::size_t size) {
  using logos::Value;
  Dealer dealer(endpoint);
  const logos::Id id{};
  const std::vector<logos::Bytes> request{
      text("LD1"), logos::pack(Value::Array{id, "send", 10'000, 0}),
      logos::pack(Value::Map{{"request_id", id}, {"content_topic", kTopic}}), logos::Bytes(size)};
  if (role == "receive") {
    dealer.send({text("flood"), text(std::to_string(count)), text(std::to_string(size))});
    dealer.receive();
    const Stopwatch watch;
    for (std::size_t number = 1; number < count; ++number) dealer.receive();
    watch.done();
  } else if (role == "send") {
    const Stopwatch watch;
    for (std::size_t number = 0; number < count + kWindow; ++number) {
      if (number >= kWindow) dealer.receive();
      if (number < count) dealer.send(request);
    }
    watch.done();
  } else {
    std::vector<double> delays;
    const Stopwatch watch;
    for (std::size_t number = 0; number < count; ++number) {
      const auto start = Clock::now();
      dealer.send(request);
      dealer.receive();
      delays.push_back(seconds_since(start));
    }
    watch.done(std::move(delays));
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 6) throw std::invalid_argument("ROLE SIDE ENDPOINT COUNT SIZE");
  const std::string side = argv[2];
  (side == "client" ? client : bare)(argv[1], argv[3], std::stoul(argv[4]), std::stoul(argv[5]));
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
