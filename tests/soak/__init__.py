"""`make soak`: steady load for a long time.

pair        two nodes, both sending: what grows in them?
network     many nodes that know one of them and that come and go: does everybody get every message?
members     the nodes of the network         plan        who goes when, from a seed
deliveries  who was to get what, and got it  growth      what may grow, and what did
watched     the figures of a process, and the lines that are printed
"""
