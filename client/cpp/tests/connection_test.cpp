// How a connection comes and goes, by what libzmq reports of its socket.
#include <gtest/gtest.h>
#include <unistd.h>

#include "connection.hpp"

namespace logos {
namespace {

// libzmq says when it is to wait for its next attempt; a handshake of the one before may be reported after that.
TEST(Connection, AHandshakeOfAConnectionThatWasGivenUpIsNotTakenForTheNextOne) {
  Loop loop;
  int hellos = 0;
  Connection connection(loop, "ipc:///tmp/logos-no-server-" + std::to_string(getpid()),
                        {.hello = [&hellos] { return ++hellos, Value(Value::Map{}); },
                         .greeted = [](const Value&, const Id&) {},
                         .down = [](const std::string&) {},
                         .event = {},
                         .drained = {},
                         .keepalive = ""});
  loop.run([&] {
    connection.open();
    connection.noticed(ZMQ_EVENT_CONNECT_RETRIED);
    connection.noticed(ZMQ_EVENT_HANDSHAKE_SUCCEEDED);
    EXPECT_EQ(hellos, 0);
    connection.close();
  });
  loop.stop();
}

}  // namespace
}  // namespace logos
