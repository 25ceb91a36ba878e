// Requests that wait for their reply, on top of a connection's loop.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "connection.hpp"

namespace logos {

/// Requests of any thread to one connection.
class Caller {
 public:
  Caller(Loop& loop, Connection& connection) : loop_(loop), connection_(connection) {}

  /// Ask without waiting. `done` runs on the loop's thread, or here if the loop has ended.
  void ask(std::string method, const Value& body, const std::vector<BytesView>& blobs, Milliseconds timeout,
           bool repeat, std::function<void(Outcome&&)> done);
  /// Ask and wait. Throws `Error`.
  Reply ask(std::string method, const Value& body, const std::vector<BytesView>& blobs, Milliseconds timeout,
            bool repeat);
  /// Open the connection and wait until requests can go out. Throws `Error`.
  void open(Milliseconds timeout);

 private:
  Loop& loop_;
  Connection& connection_;
};

/// Body of a map without what is absent.
class Body {
 public:
  Body& with(std::string_view key, Value value) {
    if (!value.is_nil()) map_.emplace_back(key, std::move(value));
    return *this;
  }
  template <class T>
  Body& with_some(std::string_view key, const T& value) {
    if (value != T{}) map_.emplace_back(key, Value(value));
    return *this;
  }
  template <class T>
  Body& with_some(std::string_view key, const std::optional<T>& value) {
    if (value) map_.emplace_back(key, Value(*value));
    return *this;
  }
  operator Value() && { return std::move(map_); }

 private:
  Value::Map map_;
};

/// A name of an app or consumer: 1 to 64 of a-z, 0-9, `.`, `_`, `-`. Throws `std::invalid_argument`.
void check_name(const std::string& name);
/// Throw `Error` for a blob above the server's limit: its socket would refuse it unread, and end the connection.
void check_size(std::size_t size, std::uint64_t limit, const NetworkInfo& network);
/// The endpoint of a socket in a node's run directory, or `where` if it is an endpoint. Throws `std::invalid_argument`.
std::string endpoint_at(const std::string& where, const std::string& socket);

}  // namespace logos
