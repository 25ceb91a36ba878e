#include "signal_fd.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace logos {

void open_pipe(int (&ends)[2]) {
  if (::pipe(ends) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
  for (const int end : ends) {
    ::fcntl(end, F_SETFD, FD_CLOEXEC);
    ::fcntl(end, F_SETFL, O_NONBLOCK);
  }
}

void close_pipe(int (&ends)[2]) noexcept {
  for (int& end : ends) {
    if (end >= 0) ::close(end);
    end = -1;
  }
}

void signal_pipe(const int (&ends)[2]) noexcept {
  const char byte = 0;
  while (::write(ends[1], &byte, 1) < 0 && errno == EINTR) {
  }
}

void clear_pipe(const int (&ends)[2]) noexcept {
  char bytes[16];
  while (::read(ends[0], bytes, sizeof bytes) > 0 || errno == EINTR) errno = 0;
}

}  // namespace logos
