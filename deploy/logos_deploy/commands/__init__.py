"""The subcommands of `logos`.

Each module has `NAME`, `HELP`, `add_arguments(parser)` and `run(arguments)`, which returns the exit code or
raises `CommandError` or `ConfigError`.
"""
