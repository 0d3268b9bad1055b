"""Fixture plugins, one per concern; and which tests stay together when several processes run them."""

import pytest
from hypothesis import settings

pytest_plugins = ["command_line", "stack"]

# The same examples every time, and no verdict on a slow machine.
settings.register_profile("kycache", derandomize=True, deadline=None)
settings.load_profile("kycache")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process runs a module's tests on one stack, in order: each process starts the stacks its tests need.

    Those come first, for they mostly wait, while the others keep the processors busy.
    """
    kinds = {item: _stack(item) for item in items}
    items.sort(key=lambda item: not kinds[item])
    for item in items:
        module = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(f"{module} {kinds[item]}"))


def _stack(item: pytest.Item) -> str:
    """Which of the demo's stacks a test needs; empty for none."""
    parameters = getattr(item, "callspec", None)
    named = [str(value) for value in parameters.params.values()] if parameters is not None else []
    named += [name.removesuffix("_stack") for name in getattr(item, "fixturenames", ())]
    return next((kind for kind in ("apache", "embedded") if kind in named), "")
