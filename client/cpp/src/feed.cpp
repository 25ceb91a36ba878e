#include "feed.hpp"

#include <algorithm>

namespace logos {
namespace {

using namespace std::chrono_literals;

constexpr int kHighWater = 2000;
constexpr std::size_t kBatch = 256;
constexpr std::size_t kFrames = 3;
constexpr Milliseconds kRelease = 1s;
/// Heartbeats that may be missing before the kernel is asked whether it is there.
constexpr int kMissed = 3;

}  // namespace

KernelFeed::State::State(std::shared_ptr<KernelClient::Session> session, FeedOptions options)
    : session_(std::move(session)), options_(std::move(options)), delay_(kReplayRetry) {
  const std::uint32_t cluster = session_->hello().network.cluster;
  std::vector<std::string> streams;
  for (const std::uint32_t shard : options_.shards) {
    streams.push_back("m/" + std::to_string(cluster) + "/" + std::to_string(shard));
  }
  if (options_.health) streams.emplace_back("p");
  if (options_.peers) streams.emplace_back("n");
  if (streams.empty()) throw std::invalid_argument("a feed of no stream: name shards, health or peers");
  const std::uint64_t held_bytes = options_.max_bytes / (2 * streams.size());
  for (const std::string& stream : streams) cursors_.emplace(stream + '\0', StreamCursor(stream, held_bytes));
  for (const auto& [topic, cursor] : cursors_) silent_ += beats(cursor) ? 1 : 0;
}

/// A shard that we do not lease may stay silent.
bool KernelFeed::State::beats(const StreamCursor& cursor) const { return options_.lease || !cursor.is_messages(); }

void KernelFeed::State::open() {
  try {
    std::vector<StreamState> states;
    if (options_.lease && !options_.shards.empty()) {
      states = session_->hold(options_.shards, options_.timeout);
      const std::lock_guard lock(mutex_);
      leased_ = true;
    }
    session_->loop().run([&] {
      for (const StreamState& state : states) {
        const auto cursor = cursors_.find(state.stream + '\0');
        if (cursor != cursors_.end()) cursor->second.start(session_->instance(), state.epoch, state.last);
      }
      open_socket();
      session_->add(weak_from_this());
    });
    std::unique_lock lock(mutex_);
    if (!heard_.wait_for(lock, options_.timeout, [this] { return silent_ == 0 || closed_; })) {
      throw Error(ErrorCode::kNotReady, std::to_string(silent_) + " of the streams have no heartbeat");
    }
    lock.unlock();
    session_->loop().run([this] {
      if (std::ranges::any_of(cursors_, [this](const auto& one) { return beats(one.second); })) watch();
    });
  } catch (...) {
    close();
    throw;
  }
}

void KernelFeed::State::close() {
  bool leased = false;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
    leased = std::exchange(leased_, false);
    update();
    heard_.notify_all();
  }
  session_->loop().run([this] {
    session_->remove(this);
    close_socket();
  });
  if (!leased) return;
  try {
    session_->release(options_.shards, kRelease);
  } catch (const Error&) {
    // It is not renewed, and lapses.
  }
}

void KernelFeed::State::close_socket() {
  for (auto* timer : {&timer_, &watch_}) {
    if (*timer) session_->loop().cancel(**timer);
    timer->reset();
  }
  if (socket_) session_->loop().unwatch(socket_);
  socket_.close();
}

void KernelFeed::State::open_socket() {
  if (endpoint_ == session_->events_endpoint()) return;
  if (socket_) session_->loop().unwatch(socket_);
  endpoint_ = session_->events_endpoint();
  socket_ = zmq::socket_t(session_->loop().context, zmq::socket_type::sub);
  socket_.set(zmq::sockopt::linger, 0);
  socket_.set(zmq::sockopt::rcvhwm, kHighWater);
  socket_.set(zmq::sockopt::sndhwm, 0);  // with a bound it loses its own subscriptions on a reconnect
  socket_.set(zmq::sockopt::reconnect_ivl, 50);
  socket_.set(zmq::sockopt::reconnect_ivl_max, 250);
  socket_.set(zmq::sockopt::handshake_ivl, 5000);
  socket_.connect(endpoint_);
  for (const auto& [topic, cursor] : cursors_) socket_.set(zmq::sockopt::subscribe, topic);
  session_->loop().watch(socket_, [this] { drain(); });
}

// -- events out --------------------------------------------------------------------------------------------------------

std::optional<KernelEvent> KernelFeed::State::take() {
  if (queue_.empty()) return std::nullopt;
  std::optional<KernelEvent> event = std::move(queue_.front().event);
  queued_ -= queue_.front().cost;
  queue_.pop_front();
  if (queue_.empty()) update();
  if (!room_ && queued_ <= options_.max_bytes / 2) {
    room_ = true;
    if (std::exchange(parked_, false)) {
      session_->loop().post([weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->work();
      });
    }
  }
  return event;
}

std::optional<KernelEvent> KernelFeed::State::next(std::optional<Milliseconds> timeout) {
  std::unique_lock lock(mutex_);
  return inbox_.wait(lock, timeout, [this] { return take(); }, [this] { return closed_ || ended_; });
}

std::optional<KernelEvent> KernelFeed::State::try_next() {
  const std::lock_guard lock(mutex_);
  return take();
}

int KernelFeed::State::event_fd() {
  const std::lock_guard lock(mutex_);
  return inbox_.descriptor();
}

FeedCounters KernelFeed::State::counters() {
  const std::lock_guard lock(mutex_);
  return counters_;
}

void KernelFeed::State::count(std::uint64_t FeedCounters::*which, std::uint64_t more) {
  const std::lock_guard lock(mutex_);
  counters_.*which += more;
}

void KernelFeed::State::put(KernelEvent event) {
  const std::uint64_t cost = cost_of(event);
  const std::lock_guard lock(mutex_);
  const bool own = std::holds_alternative<KernelLost>(event) || std::holds_alternative<KernelFound>(event);
  if (own && queued_ > 2 * options_.max_bytes) {  // a kernel that flaps while the app does not read
    ++counters_.local_dropped;
    return;
  }
  queue_.push_back({std::move(event), cost});
  queued_ += cost;
  if (queued_ >= options_.max_bytes) room_ = false;
}

void KernelFeed::State::announce() {
  const std::lock_guard lock(mutex_);
  update();
}

/// Nothing more can be read (SPEC §3.1). The leases stay until the feed is closed.
void KernelFeed::State::end(const std::string& reason) {
  session_->remove(this);
  close_socket();
  put(KernelLost{reason});
  const std::lock_guard lock(mutex_);
  ended_ = true;
  update();
}

void KernelFeed::State::lost(const std::string& reason) {
  if (!std::exchange(down_, false)) put(KernelLost{reason});
  announce();
}

void KernelFeed::State::found(const Id& instance, bool restarted) {
  open_socket();
  down_ = false;
  last_word_ = Clock::now();
  put(KernelFound{instance, restarted});
  announce();
}

// -- events in ---------------------------------------------------------------------------------------------------------

void KernelFeed::State::drain() {
  for (std::size_t count = 0; count < kBatch && socket_ && receive(); ++count) {
  }
  announce();
}

bool KernelFeed::State::receive() {
  std::size_t count = 0;
  for (bool more = true; more; ++count) {
    if (parts_.size() <= count) parts_.emplace_back();
    if (!socket_.recv(parts_[count], zmq::recv_flags::dontwait)) return false;
    more = parts_[count].more();
    if (count > kFrames) --count;  // no event: its frames are not kept
  }
  const auto cursor = cursors_.find(parts_[0].to_string_view());
  if (count != kFrames || cursor == cursors_.end()) {
    this->count(&FeedCounters::garbage);
    return true;
  }
  const auto view = [&](std::size_t index) { return BytesView(parts_[index].data<std::uint8_t>(), parts_[index].size()); };
  try {
    take_in(cursor->second, view(1), view(2));
  } catch (const Error&) {
    this->count(&FeedCounters::garbage);
    const auto version = other_version(view(1));
    if (version) end("the kernel sends events of version " + std::to_string(*version));
  }
  return true;
}

void KernelFeed::State::take_in(StreamCursor& cursor, BytesView header, BytesView payload) {
  KernelEventFrames frames = decode_kernel_event(header, payload);
  Verdict verdict = Verdict::kSkip;
  last_word_ = Clock::now();
  if (frames.kind == 0) {
    if (!cursor.heard && beats(cursor)) {
      const std::lock_guard lock(mutex_);
      --silent_;
      heard_.notify_all();
    }
    verdict = cursor.heartbeat(frames.position);
  } else {
    bool room = false;
    {
      const std::lock_guard lock(mutex_);
      room = room_;
    }
    // Full: the kernel's ring keeps it, and a replay fetches it.
    verdict = room || cursor.behind ? cursor.live(frames.position) : Verdict::kCatchUp;
    const bool gap = cursor.behind || verdict == Verdict::kCatchUp;
    if (room && gap && cursor.is_messages()) {
      count(&FeedCounters::skipped, cursor.held.add(std::move(frames)));  // for the end of the replay
    } else if (verdict != Verdict::kKeep) {
      count(&FeedCounters::skipped, 1 + cursor.held.clear());
    }
  }
  report(cursor);
  if (verdict == Verdict::kKeep) {
    show(cursor, std::move(frames));
  } else if (verdict == Verdict::kCatchUp) {
    catch_up(cursor);
  }
}

void KernelFeed::State::show(StreamCursor& cursor, KernelEventFrames&& frames) {
  if (!frames.event) return;  // a kind of a later version
  count(&FeedCounters::received);
  if (auto* message = std::get_if<KernelMessage>(&*frames.event)) message->stream = cursor.stream;
  put(std::move(*frames.event));
}

void KernelFeed::State::report(StreamCursor& cursor) {
  std::vector<StreamLoss> losses;
  losses.swap(cursor.losses);
  if (losses.empty()) return;
  if (!cursor.is_messages()) {
    catch_up(cursor);  // the complete list replaces the lost changes
    return;
  }
  for (StreamLoss& loss : losses) put(std::move(loss));
}

// -- silence -----------------------------------------------------------------------------------------------------------

/// Ask the control socket when three heartbeats are missing (SPEC §3.1). A kernel that hangs keeps its connections, so
/// nothing else shows it.
void KernelFeed::State::watch() {
  if (!socket_) return;
  const Milliseconds every(session_->hello().heartbeat_ms);
  watch_ = session_->loop().after(every, [this] {
    watch_.reset();
    drain();  // this thread may have had no turn: what waits in the socket comes first
    watch();
  });
  if (!session_->ready() || (!down_ && Clock::now() - last_word_ <= kMissed * every)) return;
  session_->ask_control([weak = weak_from_this()](bool answers) {
    const auto self = weak.lock();
    if (self && self->socket_) self->look_after(answers);
  });
}

/// A kernel that answers may have sent events that did not come.
void KernelFeed::State::look_after(bool answers) {
  if (!session_->ready()) return;
  if (answers) {
    if (down_) found(session_->instance(), false);
    last_word_ = Clock::now();
    for (auto& [topic, cursor] : cursors_) {
      if (beats(cursor)) catch_up(cursor);
    }
  } else if (!std::exchange(down_, true)) {
    put(KernelLost{"no heartbeat, and no answer from its control socket"});
    announce();
  }
}

// -- the public face ---------------------------------------------------------------------------------------------------

KernelFeed::KernelFeed(std::shared_ptr<State> state) : state_(std::move(state)) {}
KernelFeed::~KernelFeed() {
  if (state_) state_->close();
}
KernelFeed::KernelFeed(KernelFeed&&) noexcept = default;
KernelFeed& KernelFeed::operator=(KernelFeed&& other) noexcept {
  if (state_ && state_ != other.state_) state_->close();
  state_ = std::move(other.state_);
  return *this;
}

std::optional<KernelEvent> KernelFeed::next_event(std::optional<Milliseconds> timeout) { return state_->next(timeout); }
std::optional<KernelEvent> KernelFeed::try_next() { return state_->try_next(); }
int KernelFeed::event_fd() { return state_->event_fd(); }
FeedCounters KernelFeed::counters() const { return state_->counters(); }
void KernelFeed::close() { state_->close(); }

}  // namespace logos
