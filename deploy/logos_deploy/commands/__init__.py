"""The subcommands of `logos`.

The module of a command has its name, and `HELP`, `add_arguments(parser)` and `run(arguments)`, which returns
the exit code or raises `CommandError` or `ConfigError`.
"""
