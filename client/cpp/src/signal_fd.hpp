// A pipe as a flag that threads and event loops can wait for: readable while it is raised.
#pragma once

namespace logos {

void open_pipe(int (&ends)[2]);
void close_pipe(int (&ends)[2]) noexcept;
/// Raise the flag once; to raise it again, clear it first.
void signal_pipe(const int (&ends)[2]) noexcept;
void clear_pipe(const int (&ends)[2]) noexcept;

/// Readable while `set(true)`; costs nothing until someone asks for the descriptor. The caller holds a lock.
class ReadableFlag {
 public:
  ReadableFlag() = default;
  ~ReadableFlag() { close_pipe(ends_); }
  ReadableFlag(const ReadableFlag&) = delete;
  ReadableFlag& operator=(const ReadableFlag&) = delete;

  int descriptor(bool raised) {
    if (ends_[0] < 0) open_pipe(ends_);
    set(raised);
    return ends_[0];
  }
  void set(bool raised) noexcept {
    if (ends_[0] < 0 || raised == raised_) return;
    raised_ = raised;
    raised ? signal_pipe(ends_) : clear_pipe(ends_);
  }

 private:
  int ends_[2] = {-1, -1};
  bool raised_ = false;
};

}  // namespace logos
