// A light node of @waku/sdk in a page, as an app in a browser has it: the SDK's own settings, with which it dials
// secure WebSockets only. tests/browser/test_light_node.py bundles it and calls `light`.
import { multiaddr } from '@multiformats/multiaddr'
import { createDecoder, createEncoder, messageHash } from '@waku/core'
import { createLightNode, Protocols } from '@waku/sdk'

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
const described = ({ pubsubTopic, payload, proto }) => ({
  hash: hex(messageHash(pubsubTopic, proto)), text: new TextDecoder().decode(payload)
})

let node
const received = []
const routing = (contentTopic) => node.createRoutingInfo(contentTopic)
const decoder = (contentTopic) => createDecoder(contentTopic, routing(contentTopic))

globalThis.light = {
  received,

  async start (clusterId, address) {
    node = await createLightNode({
      defaultBootstrap: false,
      discovery: { dns: false, peerCache: false, peerExchange: false },
      networkConfig: { clusterId, numShardsInCluster: 1 }
    })
    await node.dial(multiaddr(address))
    await node.waitForPeers([Protocols.Store, Protocols.Filter, Protocols.LightPush], 20_000)
    return node.libp2p.getConnections().map(({ remoteAddr }) => remoteAddr.toString())
  },

  subscribe: (contentTopic) =>
    node.filter.subscribe(decoder(contentTopic), (message) => received.push(described(message))),

  async send (contentTopic, text) {
    const encoder = createEncoder({ contentTopic, routingInfo: routing(contentTopic) })
    const message = { payload: new TextEncoder().encode(text), timestamp: new Date() }
    const { successes, failures } = await node.lightPush.send(encoder, message, { autoRetry: false })
    const hash = hex(messageHash(encoder.pubsubTopic, await encoder.toProtoObj(message)))
    return { hash, successes: successes.map(String), failures: failures.map(({ error }) => error) }
  },

  async history (contentTopic) {
    const found = []
    for await (const page of node.store.queryGenerator([decoder(contentTopic)])) {
      found.push(...(await Promise.all(page)).map(described))
    }
    return found
  }
}
