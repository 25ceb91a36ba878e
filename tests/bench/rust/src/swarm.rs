//! The libp2p host: TCP + noise + yamux, gossipsub as Waku relay sets it.

use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{
    gossipsub::{self, IdentTopic, MessageAuthenticity, MessageId, ValidationMode, Version},
    identify,
    identity::Keypair,
    noise, ping, request_response,
    swarm::{behaviour::toggle::Toggle, NetworkBehaviour},
    tcp, yamux, StreamProtocol, Swarm, SwarmBuilder,
};
use sha2::{Digest, Sha256};

pub const TOPIC: &str = "/waku/2/rs/42/0";
const MAX_MESSAGE: usize = 153_600;

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub gossipsub: gossipsub::Behaviour,
    pub identify: identify::Behaviour,
    pub ping: ping::Behaviour,
    pub metadata: Toggle<request_response::Behaviour<Metadata>>,
}

/// 66/WAKU2-METADATA, for the hosts of a sink: a Waku node disconnects peers that do not speak it.
#[derive(Clone, Default)]
pub struct Metadata;
const METADATA: &[u8] = &[7, 8, 42, 16, 0, 26, 1, 0]; // cluster 42, shard 0, both ways of writing shards

impl request_response::Codec for Metadata {
    type Protocol = StreamProtocol;
    type Request = ();
    type Response = ();

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> std::io::Result<()> {
        let mut size = [0u8; 1];
        io.read_exact(&mut size).await?;
        let mut body = vec![0u8; size[0] as usize];
        io.read_exact(&mut body).await
    }
    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        p: &StreamProtocol,
        io: &mut T,
    ) -> std::io::Result<()> {
        self.read_request(p, io).await
    }
    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        _: (),
    ) -> std::io::Result<()> {
        io.write_all(METADATA).await
    }
    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        _: (),
    ) -> std::io::Result<()> {
        io.write_all(METADATA).await
    }
}

/// A host as every side of the bench has it: relay protocol id, StrictNoSign, sha256 ids, the scores and mesh sizes of
/// nwaku, and queues that drop nothing.
pub fn swarm(topic: &IdentTopic, sink: bool) -> Swarm<Behaviour> {
    let key = Keypair::generate_secp256k1();
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id("/vac/waku/relay/2.0.0", Version::V1_1)
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|m: &gossipsub::Message| MessageId::from(Sha256::digest(&m.data).to_vec()))
        .max_transmit_size(MAX_MESSAGE + 64 * 1024)
        .mesh_n(6)
        .mesh_n_low(4)
        .mesh_n_high(8)
        .mesh_outbound_min(2)
        .gossip_lazy(6)
        .history_length(6)
        .history_gossip(3)
        .heartbeat_initial_delay(Duration::from_millis(100))
        .duplicate_cache_time(Duration::from_secs(120))
        .connection_handler_queue_len(16384)
        .publish_queue_duration(Duration::from_secs(60))
        .forward_queue_duration(Duration::from_secs(60))
        .flood_publish(true)
        // The default, 16 KiB, ends the stream of a Go peer whose IHAVE is longer.
        .max_control_message_size(1 << 20)
        .build()
        .unwrap();
    let mut gossip = gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config).unwrap();
    let topic_params = gossipsub::TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 10.0,
        first_message_deliveries_weight: 1.0,
        first_message_deliveries_decay: 0.5,
        first_message_deliveries_cap: 10.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -100.0,
        invalid_message_deliveries_decay: 0.5,
        ..Default::default()
    };
    let params = gossipsub::PeerScoreParams {
        topics: [(topic.hash(), topic_params)].into_iter().collect(),
        topic_score_cap: 0.0,
        ip_colocation_factor_weight: -50.0,
        ip_colocation_factor_threshold: 5.0,
        ip_colocation_factor_whitelist: ["127.0.0.1".parse().unwrap()].into_iter().collect(),
        behaviour_penalty_weight: -10.0,
        behaviour_penalty_decay: 0.986,
        decay_interval: Duration::from_secs(12),
        decay_to_zero: 0.01,
        retain_score: Duration::from_secs(600),
        ..Default::default()
    };
    let thresholds = gossipsub::PeerScoreThresholds {
        gossip_threshold: -100.0,
        publish_threshold: -1000.0,
        graylist_threshold: -10000.0,
        accept_px_threshold: 0.0,
        opportunistic_graft_threshold: 0.0,
    };
    gossip.with_peer_score(params, thresholds).unwrap();
    SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|key| {
            gossip.subscribe(topic).unwrap();
            Behaviour {
                gossipsub: gossip,
                identify: identify::Behaviour::new(identify::Config::new("ipfs/0.1.0".into(), key.public())),
                ping: ping::Behaviour::default(),
                metadata: sink
                    .then(|| {
                        request_response::Behaviour::new(
                            [(
                                StreamProtocol::new("/vac/waku/metadata/1.0.0"),
                                request_response::ProtocolSupport::Full,
                            )],
                            request_response::Config::default(),
                        )
                    })
                    .into(),
            }
        })
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(3600)))
        .build()
}
