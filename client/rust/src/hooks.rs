//! Encryption of a channel's segments by the app, in its process (SPEC.md, §4.5, hooks).

use std::sync::Arc;
use std::time::Duration;

use rmpv::Value;
use sha2::{Digest, Sha256};

use crate::channels::named;
use crate::contract::{ChannelSegmentReceived, ChannelSplitReply};
use crate::error::{Code, Error, Result};
use crate::messaging::MessagingClient;
use crate::wire::Body;

const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
const MAX_REASON: usize = 1_000; // bytes of a hook's error that are passed on

/// Why a segment could not be encrypted or decrypted.
pub type HookError = Box<dyn std::error::Error + Send + Sync>;

/// Encrypts and decrypts the segments of a channel's payloads; see [`MessagingClient::set_channel_encryption`].
///
/// Each method takes one segment, as the reference's hooks do. They run where the app sends and where it awaits events, so
/// they are not to block.
pub trait ChannelEncryption: Send + Sync + 'static {
    /// An error fails the send with `BadRequest` ("encryption failed: …"), and nothing is sent.
    fn encrypt(&self, segment: &[u8]) -> Result<Vec<u8>, HookError>;

    /// An error makes the segment a `ChannelMessageLost`.
    fn decrypt(&self, segment: &[u8]) -> Result<Vec<u8>, HookError>;
}

impl MessagingClient {
    /// Encrypt a channel created with [`ChannelOptions::hooks`](crate::ChannelOptions::hooks) by code of the app, here, in
    /// its process. Set it before events are awaited; whether the channel exists does not matter. Without it the app gets
    /// `ChannelSegmentReceived`, and can neither send nor read.
    pub fn set_channel_encryption(&self, channel_id: &str, encryption: impl ChannelEncryption) {
        self.inner.shared.app().hooks.insert(channel_id.to_owned(), Arc::new(encryption));
    }

    /// Stop using a channel's encryption. Errors: `BadRequest` if it has none.
    pub fn clear_channel_encryption(&self, channel_id: &str) -> Result<()> {
        match self.inner.shared.app().hooks.remove(channel_id) {
            Some(_) => Ok(()),
            None => Err(Error::bad(format!("no encryption registered for channel: {channel_id}"))),
        }
    }

    /// Have a payload split by the Messaging API and encrypt its segments: their bytes one after the other, and `sealed`.
    pub(crate) async fn seal(
        &self,
        channel_id: &str,
        hooks: &dyn ChannelEncryption,
        payload: &[u8],
    ) -> Result<(Vec<u8>, Value)> {
        let reply = self.repeat("channel.split", named(channel_id), self.channel_blobs(payload)?).await?;
        let plain = reply.blobs.concat();
        let split: ChannelSplitReply = reply.parse()?;
        let (mut data, mut sizes) = (Vec::with_capacity(plain.len()), Vec::new());
        let mut rest = &plain[..];
        for size in split.sizes {
            let Some((segment, behind)) = usize::try_from(size).ok().and_then(|size| rest.split_at_checked(size))
            else {
                return Err(Error::bad("channel.split: sizes beyond the blobs"));
            };
            rest = behind;
            let sealed = hooks
                .encrypt(segment)
                .map_err(|error| Error::new(Code::BadRequest, format!("encryption failed: {error}")))?;
            sizes.push(Value::from(sealed.len()));
            data.extend(sealed);
        }
        // The digest is of the plain payload: an encryption may differ each time.
        let digest = Value::Binary(Sha256::digest(payload).to_vec());
        let sealed = Body::new().with("sizes", sizes).with("needed", split.needed).with("digest", digest);
        Ok((data, sealed.into_value()))
    }

    /// Decrypt a segment and give it back. Until the Messaging API has it, it does not count as handled, and comes again
    /// after an end of either side. Given back twice, it does no harm.
    pub(crate) async fn open_segment(self, hooks: Arc<dyn ChannelEncryption>, segment: ChannelSegmentReceived) {
        let body = named(&segment.channel_id).with("message_id", segment.message_id);
        let (body, blobs) = match hooks.decrypt(&segment.payload) {
            Ok(content) => (body, vec![content]),
            Err(error) => (body.with("error", reason(&error)), Vec::new()),
        };
        let mut delay = RETRY;
        // Another error: closed or forgotten. A channel that is opened again gives its segments again.
        while self.repeat("channel.opened", body.clone(), blobs.clone()).await.is_err_and(|error| error.retriable) {
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_MAX);
        }
        self.inner.shared.app().opening = false;
    }
}

fn reason(error: &HookError) -> String {
    let mut text = error.to_string();
    if text.is_empty() {
        text.push_str("the hook failed");
    }
    while text.len() > MAX_REASON {
        text.pop();
    }
    text
}
