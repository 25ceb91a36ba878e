"""The demonstration: `story` tells it, `node` and `app` are its actors, `ledger` keeps the count."""
