"""HTTP to the demo's own servers. Never through a proxy, whatever the environment says: they are on loopback."""

import urllib.error
import urllib.request

TIMEOUT_S = 2.0

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str) -> bytes | None:
    """The body of a 2xx answer; None for any other answer, or none."""
    return _ask(urllib.request.Request(url))


def post(url: str) -> bool:
    """Whether an empty POST was answered 2xx."""
    # Without a type urllib says it is a form, and Connect answers 415.
    request = urllib.request.Request(url, data=b"", method="POST", headers={"Content-Type": "application/json"})
    return _ask(request) is not None


def _ask(request: urllib.request.Request) -> bytes | None:
    try:
        with _opener.open(request, timeout=TIMEOUT_S) as answer:
            body: bytes = answer.read()
            return body
    except (OSError, urllib.error.HTTPError):
        return None
