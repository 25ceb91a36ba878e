#include "calls.hpp"

#include <condition_variable>
#include <exception>
#include <filesystem>
#include <mutex>
#include <stdexcept>

#include "contract_fields.hpp"

namespace logos {
namespace {

/// Bytes that a `sockaddr_un` has for a path, without its NUL.
constexpr std::size_t kMaxSocketPath = 107;
/// Requests that wait for their turn; each holds its payload.
constexpr std::size_t kMaxWaiting = 10'000;

}  // namespace

void Caller::open(Milliseconds timeout) {
  std::exception_ptr failure;
  loop_.run([&] {
    try {
      connection_.open();
    } catch (...) {
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
  (void)ask({}, Value::Map{}, {}, timeout, false);
}

void Caller::ask(std::string method, const Value& body, const std::vector<BytesView>& blobs, Milliseconds timeout,
                 bool repeat, std::function<void(Outcome&&)> done) {
  if (blobs.size() > kMaxRequestBlobs) throw std::invalid_argument("a request has at most 64 blobs");
  auto request = std::make_shared<Request>();
  request->method = std::move(method);
  request->body = pack(body);
  for (const BytesView blob : blobs) request->blobs.emplace_back(blob.begin(), blob.end());
  request->deadline = Clock::now() + std::min<Milliseconds>(timeout, Milliseconds(kMaxBudgetMs));
  request->repeat = repeat;
  request->done = std::move(done);
  // Only a request that is alone begins in the loop's place: it waits for nothing else, and many would keep the loop from its
  // turn. And only where it ends later: `done` is not to run within the call.
  const auto begin_now = [this, &request] {
    if (!connection_.ready() || !connection_.idle()) return false;
    connection_.request(request);
    return true;
  };
  if (connection_.idle() && loop_.perform(begin_now)) return;
  const bool posted = loop_.post([&connection = connection_, request] {
    if (connection.waiting() >= kMaxWaiting) {
      request->done({std::nullopt, Error(ErrorCode::kBusy, "too many requests wait for their turn here")});
    } else {
      connection.request(request);
    }
  });
  if (!posted) request->done({std::nullopt, closed_error()});
}

Reply Caller::ask(std::string method, const Value& body, const std::vector<BytesView>& blobs, Milliseconds timeout,
                  bool repeat) {
  if (loop_.here()) throw std::logic_error("a callback runs on the client's thread and cannot wait for it");
  std::mutex mutex;
  std::condition_variable ended;
  std::optional<Outcome> outcome;
  ask(std::move(method), body, blobs, timeout, repeat, [&](Outcome&& said) {
    const std::lock_guard lock(mutex);
    outcome = std::move(said);
    ended.notify_one();
  });
  std::unique_lock lock(mutex);
  ended.wait(lock, [&] { return outcome.has_value(); });
  if (outcome->error) throw *outcome->error;
  return std::move(*outcome->reply);
}

void check_name(const std::string& name) {
  const auto fine = [](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  };
  if (name.size() > 64 || !std::all_of(name.begin(), name.end(), fine)) {
    throw std::invalid_argument("name: 1 to 64 of a-z, 0-9, \".\", \"_\" and \"-\", not \"" + name + "\"");
  }
}

std::string endpoint_at(const std::string& where, const std::string& socket) {
  if (where.empty()) throw std::invalid_argument("endpoint: it is empty");
  std::string endpoint = where;
  const std::size_t scheme = where.find("://");
  if (scheme == std::string::npos) {
    endpoint = "ipc://" + (std::filesystem::absolute(where) / socket).lexically_normal().string();
  } else if (const std::string name = where.substr(0, scheme); name != "ipc" && name != "tcp") {
    throw std::invalid_argument(where + ": an endpoint is ipc://…, tcp://… or a node's run directory");
  }
  if (endpoint.starts_with("ipc://") && endpoint.size() - 6 > kMaxSocketPath) {
    throw std::invalid_argument("socket path " + endpoint.substr(6) + " has more than 107 bytes: use a shorter one");
  }
  return endpoint;
}

void check_size(std::size_t size, std::uint64_t limit, const NetworkInfo& network) {
  if (size <= limit) return;
  throw Error(ErrorCode::kTooLarge, "Message size exceeded maximum of " + std::to_string(network.max_message_size) +
                                        " bytes: the payload alone has " + std::to_string(size));
}

}  // namespace logos
