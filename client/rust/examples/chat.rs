//! A chat over a reliable channel, with the chats of the other languages (docs/build-an-app.md):
//!
//!     cargo run --release --example chat -- data/run alice

use logos_client::{ChannelOptions, Code, Event, Events, MessagingClient, Result};
use tokio::io::{stdin, AsyncBufReadExt, BufReader};

const TOPIC: &str = "/my-chat/1/room/plain";

async fn show(mut events: Events) {
    while let Some(event) = events.next().await {
        match event {
            Event::ChannelMessageReceived(message) => {
                println!("{}: {}", message.sender_id, String::from_utf8_lossy(&message.payload));
            }
            Event::ChannelMessageDelivered(delivered) => println!("-- {} has it", delivered.by),
            Event::ChannelDeliveryError(error) => println!("-- no participant has it: {}", error.text),
            Event::ChannelMessageLost(lost) => println!("-- something is missing here: {}", lost.reason),
            Event::ConnectionStatusChange(change) => println!("-- {}", change.status),
            _ => {}
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(node), Some(nick)) = (arguments.next(), arguments.next()) else {
        eprintln!("chat <run directory> <nick>");
        std::process::exit(2);
    };
    let (chat, events) = MessagingClient::at(node).name(format!("chat-{nick}")).connect().await?;
    let options = ChannelOptions { sender_id: Some(nick), ..Default::default() };
    match chat.create_channel_with("room", TOPIC, options).await {
        Err(error) if error.code == Code::Conflict => {} // it is open from an earlier run
        created => drop(created?),
    }
    let shown = tokio::spawn(show(events));
    let mut lines = BufReader::new(stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if !line.trim().is_empty() {
            chat.send_to_channel("room", line.trim()).await?;
        }
    }
    chat.close().await; // Ctrl-D ends
    let _ = shown.await;
    Ok(())
}
