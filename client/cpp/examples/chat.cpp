// A chat in a reliable channel: chat <run directory> <nick>. It talks to the chats of the other languages
// (docs/build-an-app.md).
#include <iostream>
#include <logos/messaging.hpp>
#include <thread>

namespace {

const std::string kRoom = "room";
const std::string kTopic = "/my-chat/1/room/plain";

void show(logos::MessagingClient& chat) {
  for (const logos::Event& event : chat.events()) {
    if (const auto* said = std::get_if<logos::ChannelMessageReceived>(&event)) {
      std::cout << said->sender_id << ": " << logos::as_text(said->payload) << std::endl;
    } else if (const auto* delivered = std::get_if<logos::ChannelMessageDelivered>(&event)) {
      std::cout << "-- " << delivered->by << " has it" << std::endl;
    } else if (const auto* failed = std::get_if<logos::ChannelDeliveryError>(&event)) {
      std::cout << "-- no participant is known to have it: " << failed->text << std::endl;
    } else if (const auto* lost = std::get_if<logos::ChannelMessageLost>(&event)) {
      std::cout << "-- something is missing here: " << lost->reason << std::endl;
    } else if (const auto* status = std::get_if<logos::ConnectionStatusChange>(&event)) {
      std::cout << "-- " << status->status << std::endl;
    }
  }
}

void open_room(logos::MessagingClient& chat, const std::string& nick) {
  try {
    chat.create_channel(kRoom, kTopic, {.sender_id = nick});
  } catch (const logos::Error& error) {
    if (error.code() != logos::ErrorCode::kConflict) throw;  // it is open from an earlier run
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) throw std::invalid_argument("usage: chat <run directory> <nick>");
  const std::string nick = argv[2];
  logos::MessagingClient chat(argv[1], {.name = "chat-" + nick});
  open_room(chat, nick);
  std::thread reader(show, std::ref(chat));
  try {
    for (std::string line; std::getline(std::cin, line);) {  // Ctrl-D ends
      if (!line.empty()) chat.send_to_channel(kRoom, logos::as_bytes(line));
    }
  } catch (const logos::Error& error) {
    std::cerr << error.what() << std::endl;
  }
  chat.close();
  reader.join();
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return 1;
}
