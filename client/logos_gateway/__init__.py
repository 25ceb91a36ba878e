"""The gateway: the one process of a node that serves HTTP.

It is a client of the kernel and of the Messaging API over their ZeroMQ contract, like any other program on
the host: it can be killed or left out without either noticing.

- `reference`: the REST API of nwaku, for tools that were written for it.
- `apps`: an app's own journal over server-sent events and WebSocket, with resumption and acknowledgements.
- `operator`: metrics, live kernel events and the dashboard.
"""
