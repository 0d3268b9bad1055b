"""A JSON document as PostgreSQL keeps it: whether a text is one, and the same without its blanks. Pure.

Answers embed documents as they are, so a text that is none would break them. PostgreSQL's `json` asks for grammar
only: it takes numbers that no double holds (`1e400`), halves of a surrogate pair (`"\\ud800"`), a name twice, and
nesting as deep as its stack. A parser that makes values of them refuses some of that; here none are made.
"""

import re

import msgspec

_TOKEN = re.compile(
    r"[ \t\n\r]*+(?:"
    r'(?P<text>"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+")'
    r"|(?P<plain>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null)"
    r"|(?P<mark>[][{}:,])"
    r"|(?P<end>\Z))"
)

_VALUE, _VALUE_OR_END, _NAME, _NAME_OR_END, _COLON, _NEXT = range(6)
"""What may come: a value; the same or the end of an array; a name; the same or the end of an object; …"""


def compact(text: str) -> str | None:
    """The document without the blanks between its tokens; None where `text` is no JSON document."""
    try:
        return msgspec.json.format(text, indent=-1)
    except (msgspec.DecodeError, RecursionError):  # no JSON, or more than msgspec's reader takes
        return compact_by_tokens(text)


def compact_by_tokens(text: str) -> str | None:
    """What `compact` does, for any depth and any escape; some hundred times slower."""
    tokens: list[str] = []
    opened: list[str] = []
    state = _VALUE
    at = 0
    while True:
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        at, kind = match.end(), match.lastgroup
        assert kind is not None
        if kind == "end":
            return "".join(tokens) if state == _NEXT and not opened else None
        token = match[kind]
        tokens.append(token)
        after = _after_mark(token, state, opened) if kind == "mark" else _after_scalar(kind, state)
        if after is None:
            return None
        state = after


def _after_scalar(kind: str, state: int) -> int | None:
    if state in (_NAME, _NAME_OR_END):
        return _COLON if kind == "text" else None
    return _NEXT if state in (_VALUE, _VALUE_OR_END) else None


def _after_mark(mark: str, state: int, opened: list[str]) -> int | None:
    """What may come after a mark; None where it may not stand here. `opened` is kept."""
    if mark in "{[":
        if state not in (_VALUE, _VALUE_OR_END):
            return None
        opened.append(mark)
        return _NAME_OR_END if mark == "{" else _VALUE_OR_END
    if mark == ":":
        return _VALUE if state == _COLON else None
    if not opened:
        return None
    if mark == ",":
        after = _NAME if opened[-1] == "{" else _VALUE
        return after if state == _NEXT else None
    empty = _NAME_OR_END if mark == "}" else _VALUE_OR_END
    if state not in (_NEXT, empty) or opened.pop() != ("{" if mark == "}" else "["):
        return None
    return _NEXT
