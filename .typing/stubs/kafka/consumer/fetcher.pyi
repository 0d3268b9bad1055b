from typing import Any

# Untyped, as mypy sees it: pyright would take the stubs it brings along, which are those of another version.
def __getattr__(name: str) -> Any: ...
