// Says what the missing server is called: enough to be compiled against the headers and linked with the library.
#include <iostream>
#include <logos/kernel.hpp>
#include <logos_client.h>

int main() try {
  if (logos_abi_version() != LOGOS_ABI_VERSION) return 2;
  const logos::MessagingClient app("/nonexistent/run", {.timeout = logos::Milliseconds(50)});
  return 1;
} catch (const logos::Error& error) {
  std::cout << logos::code_name(error.code()) << std::endl;
}
