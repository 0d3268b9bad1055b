"""Which heads the fast lane reads by itself: every rule, linear time, and h11 as the judge of what it accepts."""

import random
import time
from collections.abc import Callable, Iterable

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kycache.http.serving.heads import Foreign, Head, Understood, read_head, understand
from kycache.http.serving.limits import HEAD_BYTES_MAX, HEADERS_MAX

END = b"\r\n\r\n"
ID = b"00000000-0000-0000-0000-000000000001"
MULTIPLE_MAX = 300
"""The longest head against a plain one of 2 to 4 µs: 1 ms at most. A pattern that goes back takes seconds."""


def request(
    target: bytes = b"/users", *headers: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1"
) -> bytes:
    """A request's head; without headers, with the one that it needs."""
    lines = headers or (b"Host: a",)
    return b"\r\n".join((b"%s %s %s" % (method, target, version), *lines)) + END


def fate(data: bytes) -> str:
    """What the lane makes of the bytes: `fast`, `more`, or why it leaves them."""
    found = read_head(data, 0)
    if isinstance(found, Head):
        understood = understand(found.lines)
        return understood.reason if isinstance(understood, Foreign) else "fast"
    return "more" if found is None else found.reason


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/users", "fast"),
        (b"/users?", "fast"),
        (b"/users?size=5&a=/b?c:d@e'f()*[]{}|^`\\<>\"", "fast"),
        (b"/users/" + ID, "fast"),
        (b"/users/" + ID.upper() + b"?x=1", "fast"),
        (b"/users/a%20b", "fast"),
        (b"/users/%", "fast"),  # no id, said so by both lanes
        (b"/users/%zz", "fast"),
        (b"/users/%00", "fast"),
        (b"/users/%ff", "fast"),
        (b"/users/%252F", "fast"),  # decoded once: %2F
        (b"/users/exports", "fast"),
        (b"/users/EXPORT", "fast"),
        (b"/users/..", "fast"),
        (b"/users/", "route"),
        (b"/users/?size=5", "route"),
        (b"/users/" + ID + b"/", "route"),
        (b"/users/a/b", "route"),
        (b"/users//a", "route"),
        (b"//users", "route"),
        (b"/users/export", "route"),
        (b"/users/export?order=newest", "route"),
        (b"/users/%65xport", "route"),
        (b"/users/%65%78%70%6F%72%74", "route"),
        (b"/users/expor%74?x=1", "route"),
        (b"/users/%2F", "route"),
        (b"/users/a%2fb", "route"),
        (b"/users%2F" + ID, "route"),
        (b"/%75sers", "route"),
        (b"/Users", "route"),
        (b"/user", "route"),
        (b"/usersx", "route"),
        (b"/users;a", "route"),
        (b"/users#a", "route"),
        (b"/users?a#b", "route"),
        (b"/users/a#b", "route"),
        (b"/users?\xe9", "route"),
        (b"/users/\xc3\xa9", "route"),
        (b"/users/\x7f", "route"),
        (b"/users/\x00", "route"),
        (b"/users/a\tb", "route"),
        (b"/users?a b", "route"),
        (b"/livez", "route"),
        (b"/", "route"),
        (b"*", "route"),
        (b"http://a/users", "route"),
        (b"users", "route"),
        (b"?size=5", "route"),
    ],
)
def test_targets(target: bytes, expected: str) -> None:
    assert fate(request(target)) == expected
    assert fate(request(target, method=b"HEAD")) == expected


@pytest.mark.parametrize(
    "method", [b"POST", b"get", b"Get", b"OPTIONS", b"GETS", b"PRI", b" GET", b"\r\nGET", b""]
)
def test_methods(method: bytes) -> None:
    assert fate(request(method=method)) == "route"


@pytest.mark.parametrize(
    "version",
    [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/1.10", b"HTTP/01.1", b"http/1.1", b"HTTP/1.1 ", b""],
)
def test_versions(version: bytes) -> None:
    assert fate(request(version=version)) == "version"


def test_blanks_in_the_request_line() -> None:
    for line in (
        b"GET  /users HTTP/1.1",
        b"GET /users  HTTP/1.1",
        b"GET\t/users HTTP/1.1",
        b"GET /users\tHTTP/1.1",
    ):
        assert fate(line + b"\r\nHost: a" + END) in ("route", "version")
    assert fate(b"GET /users\r\nHost: a" + END) == "version"  # HTTP/0.9


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"Content-Length: 0", "fast"),
        (b"content-length:0", "fast"),
        (b"Content-Length: \t0\t ", "fast"),
        (b"Content-Length: 1", "header"),
        (b"Content-Length: 00", "header"),
        (b"Content-Length: +0", "header"),
        (b"Content-Length: -0", "header"),
        (b"Content-Length: 0, 0", "header"),
        (b"Content-Length: 0x0", "header"),
        (b"Content-Length:", "header"),
        (b"Content-Length: 0\r\nContent-Length: 0", "header"),
        (b"Content-Length: 0\r\ncontent-length: 5", "header"),
        (b"Transfer-Encoding: chunked", "header"),
        (b"transfer-encoding: identity", "header"),
        (b"Transfer-Encoding:", "header"),
        (b"TRANSFER-ENCODING: \tchunked", "header"),
        (b"Transfer-Encoding : chunked", "malformed"),
        (b"Transfer-Encoding\t: chunked", "malformed"),
        (b" Transfer-Encoding: chunked", "malformed"),
        (b"Transfer_Encoding: chunked", "fast"),  # another header
        (b"Expect: 100-continue", "header"),
        (b"expect:", "header"),
        (b"TE: trailers", "header"),
        (b"te:", "header"),
        (b"Trailer: Expires", "header"),
        (b"Upgrade: websocket", "header"),
        (b"Upgrade: h2c", "header"),
        (b"Upgrade: h2c\r\nHTTP2-Settings: AAEA", "fast"),
        (b"upgrade: H2C\r\nhttp2-settings: AAEA\r\nConnection: Upgrade, HTTP2-Settings", "fast"),
        (b"Upgrade: h2c\r\nHTTP2-Settings: A\r\nHTTP2-Settings: B", "header"),
        (b"Upgrade: h2c, websocket\r\nHTTP2-Settings: A", "header"),
        (b"Upgrade: h2c\r\nUpgrade: websocket\r\nHTTP2-Settings: A", "header"),
        (b"Upgrade: h2c\r\nUpgrade: h2c\r\nHTTP2-Settings: A", "header"),
        (b"Upgrade: TLS/1.0", "header"),
        (b"Upgrade:", "header"),
        (b"HTTP2-Settings: AAEA", "fast"),
        (b"Connection: keep-alive", "fast"),
        (b"Connection: Keep-Alive", "fast"),
        (b"Connection: close", "fast"),
        (b"Connection: close\r\nConnection: keep-alive", "fast"),
        (b"Connection: close , keep-alive", "fast"),
        (b"Connection: TE, close", "header"),
        (b"Connection: close\r\nConnection: Transfer-Encoding", "header"),
        (b"Connection: Kycache-Min-LSN", "header"),  # a proxy would have to take it out
        (b"Connection: \x80close", "header"),
        (b"Connection:", "header"),
        (b"Host: b", "malformed"),
        (b"host: a", "malformed"),
        (b"bad header", "malformed"),
        (b": x", "malformed"),
        (b"b\xc3d: x", "malformed"),
        (b"X:\r\n folded", "malformed"),
        (b"X: a\r\n\tfolded", "malformed"),
        (b"X: a\nY: b", "malformed"),
        (b"X: a\rY: b", "malformed"),
        (b"X: a\n", "malformed"),
        (b"X: \x00", "malformed"),
        (b"X: \x01", "malformed"),
        (b"X: \x7f", "malformed"),
        (b"X: \x0b", "malformed"),
        (b"X: \xe9\xff\x80", "fast"),
        (b"X:", "fast"),
        (b"X: \t", "fast"),
        (b"X!#$%&'*+-.^_`|~9: y", "fast"),
        (b"Authorization: Bearer " + b"x" * 700, "fast"),
        (b'If-None-Match: W/"a", "b"', "fast"),
        (b"Kycache-Anything: x", "fast"),  # refused, by the answer functions
        (b"Range: bytes=0-1", "fast"),
        (b"Keep-Alive: timeout=5", "fast"),
    ],
)
def test_headers(header: bytes, expected: str) -> None:
    assert fate(request(b"/users", b"Host: a", header)) == expected
    assert fate(request(b"/users", header, b"Host: a")) in (expected, "malformed")


def test_host() -> None:
    assert fate(request(b"/users", b"X: y")) == "malformed"
    assert fate(b"GET /users HTTP/1.1" + END) in ("malformed", "route")
    for host in (b"Host:", b"host: [::1]:80", b"HOST: a..b", b"Host: \xe9", b"Host: a b"):
        assert fate(request(b"/users", host)) == "fast"  # nobody reads it


def test_line_ends() -> None:
    for sent in (
        b"GET /users HTTP/1.1\nHost: a\n\n",
        b"GET /users HTTP/1.1\r\nHost: a\n\n",
        b"GET /users HTTP/1.1\r\nHost: a\n\r\n",
        b"GET /users HTTP/1.1\nHost: a\r\n\r\n",
        b"GET /users HTTP/1.1\r\nHost: a\n\nGET /users HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /users HTTP/1.1\r\nHost: a\r\n\nX: y\r\n\r\n",
    ):
        assert fate(sent) not in ("fast", "more"), sent  # Hypercorn takes a bare LF for an end: it must see it now
    assert fate(b"GET /users HTTP/1.1\r\rHost: a" + END) not in ("fast", "more")


def test_so_many_headers_and_bytes() -> None:
    most = [b"X%d: y" % n for n in range(HEADERS_MAX - 1)]
    assert fate(request(b"/users", b"Host: a", *most)) == "fast"
    assert fate(request(b"/users", b"Host: a", *most, b"Z: z")) != "fast"
    bare = len(request(b"/users?"))
    assert fate(request(b"/users?" + b"x" * (HEAD_BYTES_MAX - bare))) == "fast"
    assert fate(request(b"/users?" + b"x" * (HEAD_BYTES_MAX - bare + 1))) == "long"
    assert fate(b"GET /users?" + b"x" * HEAD_BYTES_MAX) == "long"
    assert fate(request()[:-1]) == "more"


def test_the_second_of_two() -> None:
    first, second = request(b"/users?size=1"), request(b"/users/" + ID, method=b"HEAD")
    both = first + second + b"GET /liv"
    found = read_head(both, 0)
    assert isinstance(found, Head)
    assert (found.is_head, found.path, found.query, found.end) == (False, b"/users", b"size=1", len(first))
    found = read_head(both, found.end)
    assert isinstance(found, Head)
    assert (found.is_head, found.path, found.query) == (True, b"/users/" + ID, b"")
    assert read_head(both, found.end) == Foreign("route")
    assert read_head(first + b"GE", len(first)) is None


def fed(pieces: Iterable[bytes]) -> Head | Foreign | None:
    """What comes of the bytes when they arrive in pieces, read as a connection reads them."""
    data, searched, found = b"", 0, None
    for piece in pieces:
        data += piece
        found = read_head(data, 0, searched)
        if found is not None:
            return found
        searched = len(data)
    return found


SHAPES: dict[str, bytes] = {
    "short headers": b"GET /users HTTP/1.1\r\n" + b"a:b\r\n" * 3260,
    "most headers": b"GET /users HTTP/1.1\r\nHost: a\r\n" + (b"a:" + b"b" * 155 + b"\r\n") * 99,
    "empty headers": b"GET /users HTTP/1.1\r\n" + b":\r\n" * 5400,
    "one long header": b"GET /users HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 16300,
    "one long name": b"GET /users HTTP/1.1\r\nHost: a\r\n" + b"x" * 16300,
    "blanks": b"GET /users HTTP/1.1\r\nHost: a\r\nX: " + b" \t" * 8150,
    "colons": b"GET /users HTTP/1.1\r\nHost: a\r\nX" + b":" * 16300,
    "tokens": b"GET /users HTTP/1.1\r\nHost: a\r\nConnection: " + b"close," * 2700,
    "tags": b"GET /users HTTP/1.1\r\nHost: a\r\nIf-None-Match: " + b'"",' * 5400,
    "long path": b"GET /users/" + b"x" * 16300 + b" HTTP/1.1\r\nHost: a",
    "escapes": b"GET /users/" + b"%61" * 5430 + b" HTTP/1.1\r\nHost: a",
    "slashes": b"GET /users" + b"/a" * 8150 + b" HTTP/1.1\r\nHost: a",
    "escaped slashes": b"GET /users/" + b"%2F" * 5430 + b" HTTP/1.1\r\nHost: a",
    "long query": b"GET /users?" + b"x" * 16300 + b" HTTP/1.1\r\nHost: a",
    "question marks": b"GET /users" + b"?" * 16300 + b" HTTP/1.1\r\nHost: a",
    "no version": b"GET /users?" + b"x" * 16300,
    "versions": b"GET /users?" + b" HTTP/1.1" * 1800,
    "hosts": b"GET /users HTTP/1.1\r\n" + b"Host: a\r\n" * 1800,
    "no end": b"GET /users HTTP/1.1" + b"\r" * 16300,
    "folded": b"GET /users HTTP/1.1\r\nHost: a\r\nX: y" + b"\r\n z" * 4000,
    "bare ends": b"GET /users HTTP/1.1\r\nHost: a\r\nX: y" + b"\n" * 16300,
    "bare returns": b"GET /users HTTP/1.1\r\nHost: a\r\nX: y" + b"\r" * 16300,
}


def best_s(work: Callable[[], object]) -> float:
    """The least time it took: what it costs when nothing else runs."""
    took = []
    for _ in range(30):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "unfinished"])
def test_the_longest_head_of_each_kind(shape: str, whole: bool) -> None:
    data = SHAPES[shape][: HEAD_BYTES_MAX - len(END)] + (END if whole else b"")
    assert 15_000 < len(data) <= HEAD_BYTES_MAX
    plain = best_s(lambda: fate(request()))
    assert best_s(lambda: fate(data)) < MULTIPLE_MAX * plain


METHODS = [b"GET", b"HEAD", b"POST", b"get", b"PRI"]
TARGETS = [
    *(
        b"/users",
        b"/users?size=5",
        b"/users/" + ID,
        b"/users/" + ID + b"?a=b",
        b"/users/export",
        b"/users/%65xport",
    ),
    *(
        b"/users/%2F",
        b"/users/",
        b"//users",
        b"http://a/users",
        b"/users/a#b",
        b"/users?a#b",
        b"/users/\xe9",
        b"/livez",
    ),
]
VERSIONS = [b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b""]
LINES = [
    *(b"Content-Length: 0", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Expect: 100-continue"),
    *(b"TE: trailers", b"Trailer: X", b"Upgrade: h2c", b"HTTP2-Settings: AAEA", b"Upgrade: websocket"),
    *(b"Connection: close", b"Connection: keep-alive", b"Connection: Upgrade, HTTP2-Settings", b"Connection: x"),
    *(b"Host: b", b"host:c", b" folded", b"\tfolded", b"X:", b"X: \x00", b"X: \xff\x80", b"Bad header", b":", b""),
    *(b"Kycache-Min-LSN: 0/1", b'If-None-Match: "a"', b'if-none-match:\t"b" ', b"X-Y_z: \t a  b\t"),
]
ENDS = [b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b""]

any_line = st.sampled_from(LINES) | st.binary(max_size=12)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Bytes that are a request's head, nearly one, or none."""
    target = draw(st.sampled_from(TARGETS) | st.binary(max_size=6).map(lambda more: b"/users/" + more))
    method = draw(st.sampled_from([b"GET"] * 4 + METHODS))
    first = b"%s %s %s" % (method, target, draw(st.sampled_from(VERSIONS)))
    lines = [first, *draw(st.permutations([b"Host: a", *draw(st.lists(any_line, max_size=4))]))]
    data = b"".join(line + draw(st.sampled_from(ENDS)) for line in lines) + draw(st.sampled_from(ENDS))
    if draw(st.integers(0, 3)) == 0 and data:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=2)) + data[at + draw(st.integers(0, 2)) :]
    return data + draw(st.sampled_from([b"", b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n", b"x"]))


@example(b"GET /users HTTP/1.1\r\nHost: a\r\nX: \xa0y\x85\r\n\r\n")
@example(b"GET /users HTTP/1.1\r\nHost:a\r\nConnection: close,\tkeep-alive\r\n\r\n")
@settings(max_examples=1500)
@given(heads())
def test_h11_reads_the_same_in_whatever_is_accepted(data: bytes) -> None:
    found = read_head(data, 0)
    if not isinstance(found, Head):
        return
    understood = understand(found.lines)
    if not isinstance(understood, Understood):
        return
    judge = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
    judge.receive_data(data[: found.end])
    event = judge.next_event()
    assert isinstance(event, h11.Request)
    assert event.method == (b"HEAD" if found.is_head else b"GET")
    path, mark, query = event.target.partition(b"?")
    assert (path, query) == (found.path, found.query)
    assert mark or not found.query
    names = [name.decode() for name, _ in event.headers]
    assert [name.lower() for name in understood.headers.names] == names
    for name in names:
        values = [value.decode("latin1") for known, value in event.headers if known.decode() == name]
        assert understood.headers.all(name) == values
    assert isinstance(judge.next_event(), h11.EndOfMessage)
    assert judge.trailing_data == (b"", False)
    assert (judge.their_state is h11.MUST_CLOSE) == understood.close


@settings(max_examples=500)
@given(heads(), st.randoms(use_true_random=False))
def test_however_it_is_split(data: bytes, rng: random.Random) -> None:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(6)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    for split in (pieces, [bytes([byte]) for byte in data]):
        found, whole = fed(split), read_head(data, 0)
        assert lane_of(found) == lane_of(whole)
        if lane_of(whole) == "fast":
            assert found == whole


def lane_of(found: Head | Foreign | None) -> str:
    """Who goes on with what was found."""
    if found is None:
        return "nobody yet"
    left = isinstance(found, Foreign) or isinstance(understand(found.lines), Foreign)
    return "full" if left else "fast"
