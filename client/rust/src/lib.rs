#![doc = include_str!("../README.md")]

mod bytes;
mod channels;
#[rustfmt::skip]
mod contract;
mod cursor;
mod endpoints;
mod error;
mod feed;
mod feed_task;
mod fields;
mod held;
mod hooks;
mod kernel;
mod kernel_events;
mod link;
mod link_task;
mod messaging;
mod session;
mod socket;
mod stream;
#[cfg(test)]
mod vectors;
mod wire;

pub mod events;

pub use bytes::{Bin, Bytes, Epoch, Hash, Id};
pub use channels::ChannelOptions;
pub use error::{Code, Error, Result};
pub use events::{Event, Position};
pub use feed::{FeedCounters, FeedOptions, KernelFeed};
pub use hooks::{ChannelEncryption, HookError};
pub use kernel::{KernelClient, KernelOptions, Publish, StorePage, StoreQuery, StoredMessage};
pub use kernel_events::{KernelEvent, KernelMessage, Place};
pub use messaging::{ConnectOptions, Events, MessagingClient, SendOptions};
pub use rmpv::Value;
pub use stream::StreamCounters;
pub use wire::{Body, Reply};

/// The bodies of the contract's replies, with the names of SPEC.md.
pub mod replies {
    pub use crate::contract::*;
}
