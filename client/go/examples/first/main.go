// A first app: subscribe, send, receive.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/logos-mapi/logos-mapi/client/go/logos"
)

func main() {
	ctx, topic := context.Background(), "/first-app/1/greetings/plain"
	client, err := logos.ConnectMessaging(ctx, "data/run", logos.MessagingOptions{Name: "first-app"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	client.Subscribe(ctx, topic)
	client.Send(ctx, topic, []byte("hello"))
	for event, err := range client.Events(ctx) {
		fmt.Printf("%+v %v\n", event, err)
	}
}
