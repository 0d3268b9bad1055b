"""Fixture plugins, one per concern."""

from hypothesis import settings

pytest_plugins = ["command_line", "stack"]

# The same examples every time, and no verdict on a slow machine.
settings.register_profile("kycache", derandomize=True, deadline=None)
settings.load_profile("kycache")
