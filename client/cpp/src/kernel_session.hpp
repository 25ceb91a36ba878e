// The session of a kernel's consumer: its connection, its leases, its feeds, and the turn of replays.
#pragma once

#include <deque>
#include <map>
#include <mutex>

#include "calls.hpp"
#include "control_probe.hpp"
#include "logos/kernel.hpp"

namespace logos {

class KernelClient::Session {
 public:
  Session(KernelEndpoints endpoints, KernelOptions options);
  ~Session() { close(); }
  void close();

  Reply ask(std::string method, const Value& body, Milliseconds timeout = kDefaultTimeout, bool repeat = false,
            const std::vector<BytesView>& blobs = {});
  [[nodiscard]] bool ready() const { return connection_.ready(); }
  [[nodiscard]] KernelHello hello();

  /// Lease shards; counted, so that several may hold one. Throws `Error`.
  std::vector<StreamState> hold(const std::vector<std::uint32_t>& shards, Milliseconds timeout);
  /// Undo `hold`. Throws `Error`: then the lease is not renewed, and lapses.
  void release(const std::vector<std::uint32_t>& shards, Milliseconds timeout);

  // For feeds, on the loop's thread.
  void add(std::weak_ptr<KernelFeed::State> feed) { feeds_.push_back(std::move(feed)); }
  void remove(const KernelFeed::State* feed);
  void ask_later(std::string method, const Value& body, std::function<void(Outcome&&)> done);
  /// As `ask_later`, of `stream.replay`: one at a time, which is what the kernel takes.
  void replay(const Value& body, std::function<void(Outcome&&)> done);
  /// Whether the control socket answers.
  void ask_control(std::function<void(bool)> done) { probe_.ask(endpoints_.control, std::move(done)); }
  [[nodiscard]] const std::string& events_endpoint() const { return endpoints_.events; }
  [[nodiscard]] const Id& instance() const { return instance_; }
  Loop& loop() { return loop_; }

 private:
  void check_open();
  void greeted(const Value& body, const Id& instance);
  void each_feed(const std::function<void(KernelFeed::State&)>& visit);
  void renew();
  void renew_in(Clock::duration delay);
  void next_replay();

  KernelEndpoints endpoints_;
  const KernelOptions options_;
  std::mutex mutex_;
  std::optional<KernelHello> hello_;          // guarded by mutex_
  std::map<std::uint32_t, std::size_t> held_;  // guarded by mutex_
  bool closed_ = false;                       // guarded by mutex_

  // The loop's.
  Id instance_{};
  std::vector<std::weak_ptr<KernelFeed::State>> feeds_;
  std::deque<std::pair<Value, std::function<void(Outcome&&)>>> replays_;
  bool replaying_ = false;
  std::optional<Loop::Timer> renewal_;
  Milliseconds renew_every_{10'000};
  Loop loop_;
  Connection connection_;
  ControlProbe probe_;
  Caller caller_;
};

}  // namespace logos
