"""Configuration of all processes: presets, options, sources, typed results.

`presets` are the known networks; `options` resolves layers of values (`sources` builds them from TOML,
environment and flags; `kinds` parses the values); `kernel`, `mapi` and `gateway` are the schemas with their
typed configurations. No other module imports `mapi`: a kernel knows nothing of it.
"""
