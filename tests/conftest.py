"""Fixture plugins, one per concern."""

pytest_plugins = ["command_line", "stack"]
