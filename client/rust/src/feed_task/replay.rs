//! Catching up on what a feed lacks: replays of messages, and the whole state for health and peers.

use rmpv::Value;
use tokio::time::Instant;

use super::{FeedTask, RETRY, RETRY_MAX};
use crate::contract::{NodeHealth, PeersListReply, StreamReplayReply, StreamState};
use crate::cursor::{Cursor, Verdict};
use crate::error::{Code, Error, Result};
use crate::feed::{HEALTH, PEERS};
use crate::kernel::KernelClient;
use crate::kernel_events::{decode_header, Header, KernelEvent, Place};
use crate::wire::{parse, Body};

pub(super) enum Fetched {
    Health(NodeHealth),
    Peers(PeersListReply),
    Page { events: Vec<(Vec<u8>, Vec<u8>)>, complete: bool },
}

impl FeedTask {
    /// One request at a time: the kernel takes one replay of a consumer at once.
    pub(super) fn begin_work(&mut self) {
        if self.work.is_some() || self.retry_at.is_some() || self.shared.queue().full() {
            return;
        }
        let Some(at) = self.cursors.iter().position(|cursor| cursor.behind) else { return };
        let (client, stream, place) = (self.client.clone(), self.cursors[at].stream.clone(), self.cursors[at].at());
        self.shared.queue().counters.replays += u64::from(self.cursors[at].is_messages());
        self.work = Some(Box::pin(async move { (at, fetch(&client, &stream, place).await) }));
    }

    pub(super) fn take(&mut self, at: usize, fetched: Result<Fetched>) {
        let highest = self.cursors[at].highest();
        let cursor = &mut self.cursors[at];
        match fetched {
            Ok(Fetched::Health(health)) => {
                cursor.jump(highest);
                cursor.behind = false;
                self.shared.queue().put(KernelEvent::Health { health });
            }
            Ok(Fetched::Peers(list)) => {
                cursor.jump(highest);
                cursor.behind = false;
                self.shared.queue().put(KernelEvent::PeersSnapshot { peers: list.peers });
            }
            Ok(Fetched::Page { events, complete }) => {
                for (header, payload) in events {
                    match decode_header(&header) {
                        Ok(header) => self.replayed(at, header, payload),
                        Err(error) => return self.failed(at, error),
                    }
                }
                let cursor = &mut self.cursors[at];
                let held = cursor.at().map(|place| cursor.held.take(place)).unwrap_or_default();
                cursor.behind = !complete && held.is_empty();
                for (header, payload) in held {
                    self.replayed(at, header, payload);
                }
            }
            Err(error) => return self.failed(at, error),
        }
        self.retry = RETRY;
        self.report(at);
        self.drop_held(at);
    }

    /// What is held behind another gap, once the replay is done: the next event or heartbeat shows it.
    fn drop_held(&mut self, at: usize) {
        let cursor = &mut self.cursors[at];
        if !cursor.behind {
            self.shared.queue().counters.skipped += cursor.held.clear();
        }
    }

    fn replayed(&mut self, at: usize, header: Header, payload: Vec<u8>) {
        if self.cursors[at].replayed(header.place) == Verdict::Keep {
            self.report(at);
            self.show(at, header, payload);
        }
    }

    fn failed(&mut self, at: usize, error: Error) {
        let instance = self.client.instance();
        let cursor = &mut self.cursors[at];
        let first = error.detail("first").and_then(Value::as_u64);
        match (error.code, first) {
            (Code::Trimmed, Some(first)) if cursor.at().is_some_and(|place| first > place.seq + 1) => {
                cursor.give_up(first - 1, "no longer in the kernel's ring");
            }
            (Code::EpochChanged, _) => match parse::<StreamState>(error.detail.clone()) {
                // It names the epoch that we asked for: no stream was restarted.
                Ok(state) if cursor.at().is_some_and(|at| at.epoch == state.epoch) => self.retry_later(),
                Ok(state) => {
                    let place = Place { instance, epoch: state.epoch, seq: 0 };
                    cursor.begin_again(place, "the kernel restarted this stream");
                    self.retry_at = Some(Instant::now() + RETRY); // it may restart once more
                }
                Err(_) => give_up(cursor, &error),
            },
            _ if error.retriable => self.retry_later(),
            _ => give_up(cursor, &error),
        }
        self.report(at);
        self.drop_held(at);
    }

    fn retry_later(&mut self) {
        self.retry_at = Some(Instant::now() + self.retry);
        self.retry = (self.retry * 2).min(RETRY_MAX);
    }
}

fn give_up(cursor: &mut Cursor, error: &Error) {
    cursor.give_up(cursor.highest(), &error.to_string());
    cursor.behind = false;
}

async fn fetch(client: &KernelClient, stream: &str, place: Option<Place>) -> Result<Fetched> {
    match stream {
        HEALTH => client.health().await.map(Fetched::Health),
        PEERS => client.peers().await.map(Fetched::Peers),
        _ => {
            let place = place.ok_or_else(|| Error::bad("a stream that has not begun"))?;
            let body = Body::new()
                .with("stream", stream)
                .with("epoch", Value::Binary(place.epoch.to_vec()))
                .with("after", place.seq);
            let _one_at_a_time = client.inner.replay.lock().await;
            let mut reply = client.call("stream.replay", body, Vec::new()).await?;
            let blobs = std::mem::take(&mut reply.blobs);
            page(reply.parse()?, blobs)
        }
    }
}

fn page(reply: StreamReplayReply, blobs: Vec<Vec<u8>>) -> Result<Fetched> {
    if blobs.len() != 2 * usize::from(reply.events) || (blobs.is_empty() && !reply.complete) {
        return Err(Error::bad(format!("stream.replay: {} blobs for {} events", blobs.len(), reply.events)));
    }
    let mut blobs = blobs.into_iter();
    let mut events = Vec::with_capacity(usize::from(reply.events));
    while let (Some(header), Some(payload)) = (blobs.next(), blobs.next()) {
        events.push((header, payload));
    }
    Ok(Fetched::Page { events, complete: reply.complete })
}
