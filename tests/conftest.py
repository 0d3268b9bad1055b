"""Fixture plugins, one per concern; and which tests come first when several processes run them."""

import pytest
from hypothesis import settings

pytest_plugins = [
    "support.bucket",
    "support.command_line",
    "support.pipeline.captured",
    "support.pipeline.stack",
    "support.small_disk",
]

# The same examples every time, and no verdict on a slow machine.
settings.register_profile("kycache", derandomize=True, deadline=None)
settings.load_profile("kycache")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with tests on one of the demo's stacks come first: they wait, while others keep the processors busy.

    Each process runs whole modules, and starts each of the session's stacks once at most.
    """
    on_stacks = {_module(item) for item in items if _STACKS.intersection(_needs(item))}
    items.sort(key=lambda item: _module(item) not in on_stacks)


_STACKS = {"apache", "embedded", "apache_stack", "embedded_stack"}


def _module(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _needs(item: pytest.Item) -> set[str]:
    """Fixtures of a test, and values of their parameters."""
    parameters = getattr(item, "callspec", None)
    values = parameters.params.values() if parameters is not None else ()
    return {*map(str, values), *getattr(item, "fixturenames", ())}
