//! What an app gets: the events of its stream, and those that the client itself makes.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::bytes::Id;
pub use crate::contract::{
    ChannelDeliveryError, ChannelMessageDelivered, ChannelMessageError, ChannelMessageLost, ChannelMessageReceived,
    ChannelMessageSent, ChannelSegmentReceived, ChannelSync, ConnectionStatusChange, ContentTopicHealthChange, Event,
    EventsDropped, MessageCancelled, MessageError, MessagePropagated, MessageQueued, MessageReceived, MessageSent,
    MessageUnconfirmed, MessagesMissed, TakenOver,
};

/// A position in an app's stream: everything up to `seq`. (stream id, seq) identifies an event for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The stream.
    pub stream_id: Id,
    /// The event in it.
    pub seq: u64,
}

impl Event {
    /// Where it stands in its stream; none for `TakenOver` and the client's own events.
    pub fn position(&self) -> Option<Position> {
        self.place().map(|(stream_id, seq)| Position { stream_id, seq })
    }
}

/// The Messaging API is unreachable. The client keeps trying; a named app has lost nothing yet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinkLost {
    /// For people.
    pub reason: String,
}

/// The Messaging API is back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinkRestored {
    /// The stream continues behind the last event. False: the Messaging API did not know the stream any more (an
    /// ephemeral app's ends with its connection), so events behind `last_seq` and outcomes of sends are lost.
    pub resumed: bool,
    /// The stream that is gone.
    pub lost_stream: Option<Id>,
    /// The last event that came of it.
    pub last_seq: u64,
    /// Content topics that could not be subscribed again, and why.
    pub subscription_errors: BTreeMap<String, String>,
}
