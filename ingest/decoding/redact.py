"""What is kept of a record that could not be understood: all of it but what the view calls secret."""

import json
from collections.abc import Iterable, Mapping

import msgspec

Secrets = Mapping[str, tuple[str, ...]]
"""Per table, its secret columns."""


def without_secrets(value: bytes, secrets: Secrets) -> bytes:
    """The same event with null in the secret columns of its row images. What is no JSON is left as it is.

    They are never decoded, so a replay is the same without them.
    """
    try:
        event = msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return value
    found = False
    for body in (event, event.get("payload") if isinstance(event, dict) else None):
        for name, image in _places(body, secrets):
            if image.get(name) is not None:
                image[name], found = None, True
    return json.dumps(event).encode() if found else value  # msgspec writes no integer beyond 64 bits


def _places(body: object, secrets: Secrets) -> Iterable[tuple[str, dict[str, object]]]:
    """Each secret column with each row image it may stand in; of an event that names no table, every table's."""
    if not isinstance(body, dict):
        return
    source = body.get("source")
    table = source.get("table") if isinstance(source, dict) else None
    names = secrets.get(table, ()) if isinstance(table, str) else {n for named in secrets.values() for n in named}
    for image in (body.get("before"), body.get("after")):
        if isinstance(image, dict):
            yield from ((name, image) for name in names)
