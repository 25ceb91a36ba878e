"""The apps that the Messaging API serves: identity, connection and lifetime."""

from mapi_proc.apps.registry import App, AppConnection, AppRegistry

__all__ = ["App", "AppConnection", "AppRegistry"]
