"""The apps that MAPI serves: who they are, how they come and go."""

from mapi_proc.apps.registry import App, AppConnection, AppRegistry

__all__ = ["App", "AppConnection", "AppRegistry"]
