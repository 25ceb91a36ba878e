// The adapter of the C++ client: commands as lines of JSON on stdin, answers on stdout. See client/conformance/README.md.
#include <iostream>
#include <list>
#include <mutex>
#include <thread>

#include "json_values.hpp"
#include "logos/kernel.hpp"

namespace {

using logos::MessagingClient;
using nlohmann::json;

/// The kit's encryption: a mark, and bit 5 of each byte flipped.
constexpr std::uint8_t kMark = '+';

logos::Bytes flipped(logos::BytesView bytes) {
  logos::Bytes turned;
  for (const std::uint8_t byte : bytes) turned.push_back(byte ^ 0x20);
  return turned;
}

logos::Bytes sealed(logos::BytesView segment) {
  logos::Bytes content = flipped(segment);
  content.insert(content.begin(), kMark);
  return content;
}

logos::Bytes unsealed(logos::BytesView segment) {
  if (segment.empty() || segment.front() != kMark) throw std::runtime_error("not sealed");
  return flipped(segment.subspan(1));
}

class Subject {
 public:
  json run(const json& line) {
    const std::string command = line.at("cmd");
    const logos::Milliseconds timeout(line.value("timeout_ms", 10'000));
    if (command == "connect") {
      connect(line, timeout);
      return nullptr;
    }
    if (command == "kernel_connect") {
      logos::KernelOptions options;
      options.name = line.value("name", "");
      options.timeout = timeout;
      auto kernel = std::make_shared<logos::KernelClient>(line.at("directory").get<std::string>(), options);
      const std::lock_guard lock(mutex_);
      kernel_ = std::move(kernel);
      return nullptr;
    }
    if (const auto kernel = guarded(kernel_)) return run_kernel(*kernel, command, line, timeout);
    const auto client = guarded(client_);
    if (command == "next") {
      auto event = client->next_event(timeout);
      if (!event) return nullptr;
      const json said = as_json(logos::to_value(*event));
      const std::lock_guard lock(mutex_);
      event_ = std::move(event);
      return said;
    }
    if (command == "ack") {
      std::optional<logos::Event> event;
      {
        const std::lock_guard lock(mutex_);
        event = event_;
      }
      if (event) client->ack(*event, timeout);
      return nullptr;
    }
    if (command == "send") {
      logos::SendOptions options;
      options.timeout = timeout;
      if (line.contains("request_id")) {
        const auto bytes = from_hex(line.at("request_id"));
        std::copy_n(bytes.begin(), 16, options.request_id.emplace().begin());
      }
      return logos::to_hex(client->send(line.at("topic"), from_hex(line.at("payload")), options));
    }
    if (command == "find_send") {
      logos::Id id{};
      const auto bytes = from_hex(line.at("request_id"));
      std::copy_n(bytes.begin(), 16, id.begin());
      if (line.contains("channel")) {
        const auto ended = client->find_channel_send(line.at("channel"), id);
        return ended ? json(ended->end) : json(nullptr);
      }
      const auto found = client->find_send(id, {}, timeout);
      return found ? json(found->state) : json(nullptr);
    }
    if (command == "subscribe") return client->subscribe(topics(line), {.timeout = timeout});
    if (command == "unsubscribe") return client->unsubscribe(topics(line), timeout);
    if (command == "subscriptions") return client->subscriptions(timeout);
    if (command == "channel_create") {
      const std::string channel = line.at("channel");
      client->set_channel_encryption(channel, sealed, unsealed);
      return client->create_channel(channel, line.at("topic"), {.hooks = true, .timeout = timeout});
    }
    if (command == "channel_send") {
      return logos::to_hex(client->send_to_channel(line.at("channel"), from_hex(line.at("payload")), {.timeout = timeout}));
    }
    if (command == "status") {
      const auto status = client->status(timeout);
      return {{"connection", status.connection}, {"reason", status.reason}, {"topics", status.topics}};
    }
    if (command == "close") {
      client->close(true);
      return nullptr;
    }
    throw logos::Error(logos::ErrorCode::kUnknownMethod, "no command " + command);
  }

  void leave() {
    if (const auto client = guarded(client_)) client->close(false);
    if (const auto kernel = guarded(kernel_)) kernel->close();
  }

 private:
  json run_kernel(logos::KernelClient& kernel, const std::string& command, const json& line,
                  logos::Milliseconds timeout) {
    if (command == "feed") {
      logos::FeedOptions options;
      options.shards = line.at("shards").get<std::vector<std::uint32_t>>();
      options.health = options.peers = true;
      options.max_bytes = line.value("max_bytes", options.max_bytes);
      auto feed = std::make_shared<logos::KernelFeed>(kernel.events(options));
      const std::lock_guard lock(mutex_);
      feed_ = std::move(feed);
      return nullptr;
    }
    if (command == "next") {
      const auto event = guarded(feed_)->next_event(timeout);
      return event ? as_json(logos::to_value(*event)) : json();
    }
    if (command == "publish") {
      const auto reply = kernel.publish(line.at("topic"), from_hex(line.at("payload")), {.timeout = timeout});
      return {{"peers", reply.peers}, {"message_hash", logos::to_hex(reply.message_hash)}};
    }
    if (command == "query") {
      logos::StoreQuery query;
      query.content_topics = topics(line);
      query.include_data = true;
      query.limit = 100;
      const logos::Value info = kernel.info({"MyPeerId"});
      query.peer = *info.find("MyPeerId")->get<std::string>();
      json payloads = json::array();
      for (const auto& message : kernel.store_query(query).messages) payloads.push_back(logos::to_hex(message.payload));
      return payloads;
    }
    if (command == "peers") return kernel.peers().size();
    if (command == "health") return {{"state", kernel.health().state}};
    if (command == "close") {
      kernel.close();
      return nullptr;
    }
    throw logos::Error(logos::ErrorCode::kUnknownMethod, "no command " + command);
  }

  void connect(const json& line, logos::Milliseconds timeout) {
    logos::ConnectOptions options;
    options.name = line.value("name", "");
    options.takeover = line.value("takeover", false);
    options.credit = line.value("credit", options.credit);
    options.timeout = timeout;
    auto client = std::make_shared<MessagingClient>(line.at("endpoint").get<std::string>(), options);
    const std::lock_guard lock(mutex_);
    client_ = std::move(client);
  }

  template <class T>
  T guarded(const T& shared) {
    const std::lock_guard lock(mutex_);
    return shared;
  }

  static std::vector<std::string> topics(const json& line) { return line.at("topics"); }

  std::mutex mutex_;
  std::shared_ptr<MessagingClient> client_;
  std::optional<logos::Event> event_;
  std::shared_ptr<logos::KernelClient> kernel_;
  std::shared_ptr<logos::KernelFeed> feed_;
};

json failure(const logos::Error& error) {
  json said{{"code", logos::code_name(error.code())},
            {"retriable", error.retriable()},
            {"message", error.message()},
            {"retry_after_ms", nullptr}};
  if (error.retry_after()) said["retry_after_ms"] = error.retry_after()->count();
  return said;
}

}  // namespace

int main() {
  Subject subject;
  std::mutex output;
  std::list<std::thread> threads;
  for (std::string text; std::getline(std::cin, text);) {
    threads.emplace_back([&, line = json::parse(text)] {
      json answer{{"id", line.at("id")}, {"ok", true}};
      try {
        answer["result"] = subject.run(line);
      } catch (const logos::Error& error) {
        answer["ok"] = false;
        answer["error"] = failure(error);
      }
      const std::lock_guard lock(output);
      std::cout << answer.dump() << std::endl;
    });
  }
  subject.leave();
  for (std::thread& thread : threads) thread.join();
}
