#include <iostream>
#include <logos/messaging.hpp>

int main() {
  logos::MessagingClient app("data/run", {.name = "first-app"});
  app.subscribe("/first-app/1/greetings/plain");
  app.send("/first-app/1/greetings/plain", "hello");
  for (const logos::Event& event : app.events()) {
    const auto* message = std::get_if<logos::MessageReceived>(&event);
    if (message != nullptr) std::cout << message->content_topic << ": " << logos::as_text(message->payload) << std::endl;
    if (message != nullptr) break;
  }
  app.close(true);
}
