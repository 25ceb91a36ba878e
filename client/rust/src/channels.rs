//! Reliable channels of an app (SPEC.md, §4.5).

use rmpv::Value;

use crate::bytes::{Hash, Id};
use crate::contract::{
    ChannelCreateReply, ChannelExistsReply, ChannelFindSendReply, ChannelInfo, ChannelListReply, ChannelStatusReply,
    PendingChannelSend,
};
use crate::error::{Code, Error, Result};
use crate::messaging::MessagingClient;
use crate::session::id_value;
use crate::wire::Body;

const BLOB: usize = 1 << 20; // of a payload, which travels in several; less if the server takes less
const MOST_BLOBS: usize = 64;

/// Options of [`MessagingClient::create_channel_with`].
#[derive(Debug, Clone, Default)]
pub struct ChannelOptions {
    /// Our name in the channel; made up where there is none.
    pub sender_id: Option<String>,
    /// The form written: `reference` (default), `raw`, `js`.
    pub profile: Option<String>,
    /// Keys that the participants share; the first encrypts.
    pub keys: Vec<Hash>,
    /// Keys are stored, so that the channel opens by itself after a restart.
    pub keep_keys: bool,
    /// Parity segments per data segment, in millionths.
    pub parity_ppm: u32,
    /// Instead of keys, [`MessagingClient::set_channel_encryption`] says how to encrypt; only with profile `reference`.
    pub hooks: bool,
}

pub(crate) fn named(channel_id: &str) -> Body {
    Body::new().with("channel_id", channel_id)
}

impl MessagingClient {
    /// Create a reliable channel, or open one that was closed or is locked: our sender id in it.
    pub async fn create_channel(&self, channel_id: &str, content_topic: &str) -> Result<String> {
        self.create_channel_with(channel_id, content_topic, ChannelOptions::default()).await
    }

    /// Create or open a channel. Errors: `Conflict` (it is open), `BadRequest`, `UnknownMethod` (this Messaging API has
    /// no hooks).
    pub async fn create_channel_with(
        &self,
        channel_id: &str,
        content_topic: &str,
        options: ChannelOptions,
    ) -> Result<String> {
        if options.hooks && !self.features().iter().any(|feature| feature == "channel_hooks") {
            // It would ignore the key, and the channel would not be encrypted.
            return Err(Error::new(Code::UnknownMethod, "this Messaging API has no channels with hooks"));
        }
        let keys: Vec<Value> = options.keys.iter().map(|key| Value::Binary(key.to_vec())).collect();
        let body = named(channel_id)
            .with("content_topic", content_topic)
            .maybe("sender_id", options.sender_id)
            .maybe("profile", options.profile)
            .maybe("keys", (!keys.is_empty()).then_some(keys))
            .maybe("keep_keys", options.keep_keys.then_some(true))
            .maybe("parity_ppm", (options.parity_ppm > 0).then_some(options.parity_ppm))
            .maybe("hooks", options.hooks.then_some(true));
        Ok(self.call("channel.create", body, Vec::new()).await?.parse::<ChannelCreateReply>()?.sender_id)
    }

    /// Whether the app has an open channel of that name.
    pub async fn channel_exists(&self, channel_id: &str) -> Result<bool> {
        Ok(self.repeat("channel.exists", named(channel_id), Vec::new()).await?.parse::<ChannelExistsReply>()?.exists)
    }

    /// The app's channels, closed ones too.
    pub async fn channels(&self) -> Result<Vec<ChannelInfo>> {
        Ok(self.repeat("channel.list", Body::new(), Vec::new()).await?.parse::<ChannelListReply>()?.channels)
    }

    /// What an open channel waits for, and how much it holds.
    pub async fn channel_status(&self, channel_id: &str) -> Result<ChannelStatusReply> {
        self.repeat("channel.status", named(channel_id), Vec::new()).await?.parse()
    }

    /// A send of a channel by its request id, also when it is final: `end` is then `delivered`, `failed` or
    /// `undelivered`. `None`: it was not accepted, or ended a day ago, after which ids are forgotten.
    pub async fn find_channel_send(&self, channel_id: &str, request_id: Id) -> Result<Option<PendingChannelSend>> {
        let body = named(channel_id).with("request_id", id_value(request_id));
        Ok(self.repeat("channel.find_send", body, Vec::new()).await?.parse::<ChannelFindSendReply>()?.send)
    }

    /// Stop to receive and send; a named app's stored state stays.
    pub async fn close_channel(&self, channel_id: &str) -> Result<()> {
        self.repeat("channel.close", named(channel_id), Vec::new()).await.map(drop)
    }

    /// Close a channel and delete all that is stored of it.
    pub async fn forget_channel(&self, channel_id: &str) -> Result<()> {
        self.call("channel.forget", named(channel_id), Vec::new()).await.map(drop)
    }

    /// Send a payload of up to some 25 MB: its request id once it is accepted. `ChannelMessageSent` follows, and one of
    /// `ChannelMessageDelivered`, `ChannelMessageError`, `ChannelDeliveryError` is its end.
    pub async fn send_to_channel(&self, channel_id: &str, payload: impl AsRef<[u8]>) -> Result<Id> {
        self.send_to_channel_with(channel_id, payload, Id::random(), false).await
    }

    /// Send under an id, the idempotency key within the channel. `ephemeral`: not to be stored by the network.
    pub async fn send_to_channel_with(
        &self,
        channel_id: &str,
        payload: impl AsRef<[u8]>,
        request_id: Id,
        ephemeral: bool,
    ) -> Result<Id> {
        let payload = payload.as_ref();
        let body =
            named(channel_id).with("request_id", id_value(request_id)).maybe("ephemeral", ephemeral.then_some(true));
        let hooks = self.inner.shared.app().hooks.get(channel_id).cloned();
        let (body, blobs) = match hooks {
            Some(hooks) => {
                let (data, sealed) = self.seal(channel_id, &*hooks, payload).await?;
                (body.with("sealed", sealed), self.channel_blobs(&data)?)
            }
            None => (body, self.channel_blobs(payload)?),
        };
        self.repeat("channel.send", body, blobs).await?;
        Ok(request_id)
    }

    /// Data for a channel, in blobs that the Messaging API takes.
    pub(crate) fn channel_blobs(&self, data: &[u8]) -> Result<Vec<Vec<u8>>> {
        let limit = usize::try_from(self.limits().blob_bytes).unwrap_or(BLOB);
        let most = if limit > 0 { limit.min(BLOB) } else { BLOB };
        if data.len() > MOST_BLOBS * most {
            return Err(Error::new(Code::TooLarge, format!("{} bytes, at most {}", data.len(), MOST_BLOBS * most)));
        }
        Ok(data.chunks(most).map(<[u8]>::to_vec).collect())
    }
}
