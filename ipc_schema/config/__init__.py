"""Configuration of both processes: presets, options, sources, typed results.

`presets` are the known networks; `options` resolves layers of values (`sources` makes those from TOML,
environment and flags; `kinds` reads the values); `kernel` and `mapi` are the two schemas with their typed
configurations. `mapi` is never imported from the others: a kernel knows nothing of it.
"""
