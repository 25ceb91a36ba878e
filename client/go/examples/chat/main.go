// A chat in a reliable channel: chat <run directory> <nick>. It talks to the chats of the other languages
// (docs/build-an-app.md).
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/logos-mapi/logos-mapi/client/go/logos"
)

const (
	room  = "room"
	topic = "/my-chat/1/room/plain"
)

func show(ctx context.Context, chat *logos.MessagingClient) {
	for event, err := range chat.Events(ctx) {
		if err != nil {
			return
		}
		switch e := event.(type) {
		case *logos.ChannelMessageReceived:
			fmt.Printf("%s: %s\n", e.SenderID, e.Payload)
		case *logos.ChannelMessageDelivered:
			fmt.Printf("-- %s has it\n", e.By)
		case *logos.ChannelDeliveryError:
			fmt.Printf("-- not delivered: %s\n", e.Text)
		case *logos.ChannelMessageLost:
			fmt.Printf("-- something is missing here: %s\n", e.Reason)
		case *logos.ConnectionStatusChange:
			fmt.Printf("-- %s\n", e.Status)
		}
	}
}

func run(directory, nick string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	chat, err := logos.ConnectMessaging(ctx, directory, logos.MessagingOptions{Name: "chat-" + nick})
	if err != nil {
		return err
	}
	defer chat.Close()
	_, err = chat.CreateChannel(ctx, room, topic, logos.ChannelOptions{SenderID: nick})
	if err != nil && !errors.Is(err, logos.CodeConflict) { // it is open from an earlier run
		return err
	}
	go show(ctx, chat)
	lines := bufio.NewScanner(os.Stdin) // Ctrl-D ends
	for lines.Scan() {
		if text := strings.TrimSpace(lines.Text()); text != "" {
			if _, err := chat.SendToChannel(ctx, room, []byte(text)); err != nil {
				return err
			}
		}
	}
	return lines.Err()
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: chat <run directory> <nick>")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
