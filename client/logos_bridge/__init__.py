"""The bridge between a node and NATS JetStream.

It is a client of the kernel, of the Messaging API and of a NATS server: it can be killed or left out without
any of them noticing.

- Out: the kernel's message streams become a JetStream stream, each message once, whichever of several bridges
  publishes it.
- In: sends from a work queue are handed to the Messaging API, and their fates are published. What a bridge
  that died had begun, another one ends, as the same message.

Decisions are in modules without I/O (`subjects`, `layout`, `positions`, `publish_window`, `duplicates`,
`send_record`, `takeover`); the others are their asyncio shell.
"""
