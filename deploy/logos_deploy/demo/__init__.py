"""The demonstration: `story` is its script, `node` and `app` are its actors, `ledger` keeps the count."""
