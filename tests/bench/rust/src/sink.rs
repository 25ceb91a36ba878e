//! Many hosts in one process, on one thread.

use std::{cell::RefCell, rc::Rc, time::Duration};

use futures::StreamExt;
use libp2p::{
    gossipsub::{self, IdentTopic, MessageAcceptance},
    request_response,
    swarm::SwarmEvent,
    Multiaddr, PeerId,
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    lines::{emit, stdin_lines},
    message::decode,
    receiver::{serve_acks, Receiver},
    swarm::{swarm, BehaviourEvent, TOPIC},
};

/// Each host dials the given address and receives; a message counts when all have it.
pub async fn sink() {
    let topic = IdentTopic::new(TOPIC);
    let mut commands = stdin_lines();
    let (port, acks) = serve_acks().await;
    let receiver = Rc::new(RefCell::new(Receiver::new(acks)));
    let mut hosts = 0;
    emit(
        "ready",
        json!({"role": "sink", "peerId": "", "addresses": [], "ackPort": port}),
    );
    let mut stall = tokio::time::interval(Duration::from_secs(10));
    loop {
        let command = tokio::select! {
            _ = stall.tick() => {
                receiver.borrow_mut().stalled();
                continue
            }
            command = commands.recv() => match command { Some(c) => c, None => return },
        };
        match command.cmd.as_str() {
            "dial" => {
                let address: Multiaddr = command.address.parse().unwrap();
                let (tx, mut rx) = mpsc::unbounded_channel::<PeerId>();
                for host in hosts as u32..(hosts + command.hosts) as u32 {
                    let mut swarm = swarm(&topic, true);
                    swarm.dial(address.clone()).unwrap();
                    let (receiver, hash, tx) = (receiver.clone(), topic.hash(), tx.clone());
                    tokio::task::spawn_local(async move {
                        loop {
                            match swarm.select_next_some().await {
                                SwarmEvent::Behaviour(BehaviourEvent::Gossipsub(gossipsub::Event::Message {
                                    propagation_source,
                                    message_id,
                                    message,
                                })) => {
                                    let w = decode(&message.data).expect("a WakuMessage");
                                    swarm.behaviour_mut().gossipsub.report_message_validation_result(
                                        &message_id,
                                        &propagation_source,
                                        MessageAcceptance::Accept,
                                    );
                                    receiver.borrow_mut().take(host, w.payload);
                                }
                                SwarmEvent::Behaviour(BehaviourEvent::Metadata(request_response::Event::Message {
                                    message: request_response::Message::Request { channel, .. },
                                    ..
                                })) => {
                                    let _ = swarm
                                        .behaviour_mut()
                                        .metadata
                                        .as_mut()
                                        .unwrap()
                                        .send_response(channel, ());
                                }
                                SwarmEvent::Behaviour(BehaviourEvent::Gossipsub(gossipsub::Event::Subscribed {
                                    peer_id,
                                    topic,
                                })) if topic == hash => {
                                    let _ = tx.send(peer_id);
                                }
                                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                                SwarmEvent::ConnectionClosed { cause, .. } => {
                                    eprintln!("sink: connection closed: {cause:?}");
                                }
                                _ => {}
                            }
                        }
                    });
                    // One at a time: below every limit of half-open connections.
                    rx.recv().await;
                }
                hosts += command.hosts;
                emit("dialled", json!({"hosts": hosts}));
            }
            "expect" => {
                receiver.borrow_mut().expect(&command, hosts as u32);
            }
            "stop" => std::process::exit(0),
            other => panic!("{other}"),
        }
    }
}
