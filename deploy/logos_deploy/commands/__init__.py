"""The subcommands of `logos`.

Each module is named after its command, and has `HELP`, `add_arguments(parser)` and `run(arguments)`, which
returns the exit code or raises `CommandError` or `ConfigError`.
"""
