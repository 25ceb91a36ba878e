"""Store sync: stores compare what they have, and give each other what is missing (WAKU-SYNC).

Pure: `keys`, `index` (what we have), `codec` and `transfer_codec` (bytes on the wire), `reconcile` (one
session), `invitations` (what a peer may transfer). Over streams: `session`, `transfer`, `service`.
"""
