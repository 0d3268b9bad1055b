"""Fixture plugins, one per concern; and which tests stay together when several processes run them."""

import pytest
from hypothesis import settings

pytest_plugins = ["command_line", "stack"]

# The same examples every time, and no verdict on a slow machine.
settings.register_profile("kycache", derandomize=True, deadline=None)
settings.load_profile("kycache")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process runs all tests on one of the session's stacks; the others stay together by module and stack.

    Those on stacks come first, for they mostly wait, while the others keep the processors busy.
    """
    groups = {item: _group(item) for item in items}
    items.sort(key=lambda item: not groups[item][0])
    for item in items:
        item.add_marker(pytest.mark.xdist_group(" ".join(groups[item])))


def _group(item: pytest.Item) -> tuple[str, str]:
    """The kind of stack that a test needs, empty for none; and whose it is: the session's, or the module's own."""
    parameters = getattr(item, "callspec", None)
    fixtures: list[str] = getattr(item, "fixturenames", [])
    named = [str(value) for value in parameters.params.values()] if parameters is not None else []
    named += [name.removesuffix("_stack") for name in fixtures]
    kind = next((kind for kind in ("apache", "embedded") if kind in named), "")
    shared = kind and {"apache_stack", "embedded_stack", "pipeline"}.intersection(fixtures)
    return kind, "session" if shared else item.nodeid.partition("::")[0]
