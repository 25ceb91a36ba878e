"""The apps that MAPI serves: who they are, how they come and go."""

from mapi_proc.apps.registry import App, AppRegistry, Connection

__all__ = ["App", "AppRegistry", "Connection"]
