// Chat in a room with the clients of all languages: chat <run directory> <nick> [room].
//
// A line that is typed is sent as "nick: text" in UTF-8 on /logos-chat/1/<room>/plain. The nick is the app's name too, so
// what is said while this program is away comes when it is back.
#include <iostream>
#include <logos/messaging.hpp>
#include <thread>

namespace {

void show(logos::MessagingClient& app) {
  for (const logos::Event& event : app.events()) {
    if (const auto* message = std::get_if<logos::MessageReceived>(&event)) {
      std::cout << logos::as_text(message->payload) << std::endl;
    } else if (const auto* error = std::get_if<logos::MessageError>(&event)) {
      std::cerr << "not sent: " << error->text << std::endl;
    } else if (const auto* lost = std::get_if<logos::LinkLost>(&event)) {
      std::cerr << "the node is away: " << lost->reason << std::endl;
    }
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 3) throw std::invalid_argument("usage: chat <run directory> <nick> [room]");
  const std::string nick = argv[2];
  const std::string topic = std::string("/logos-chat/1/") + (argc > 3 ? argv[3] : "lobby") + "/plain";
  logos::MessagingClient app(argv[1], {.name = "chat-" + nick});
  app.subscribe(topic);
  std::thread reader(show, std::ref(app));
  for (std::string line; std::getline(std::cin, line);) {
    if (!line.empty()) app.send(topic, nick + ": " + line);
  }
  app.close();
  reader.join();
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return 1;
}
