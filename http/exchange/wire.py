"""The head of an answer as HTTP/1.1 sends it, byte for byte as Hypercorn and h11 write it."""

import time
from http import HTTPStatus
from wsgiref.handlers import format_date_time

from .problems import Headers

END = b"\r\n"
CLOSE = b"connection: close\r\n"
CLOSE_ASKED = b"Connection: close\r\n"
"""The same where the client asked for it: h11 writes this one itself."""

_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} \r\n".encode() for s in HTTPStatus}  # Hypercorn sends no phrase


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return _STATUS_LINES[status]


def header_lines(headers: Headers) -> bytes:
    """A line for each header; names in lower case, as HTTP/2 demands them."""
    return "".join([f"{name.lower()}: {value}\r\n" for name, value in headers]).encode("latin1")


class DateLine:
    """The Date header, made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._line = b""

    def now(self) -> bytes:
        """The line for this moment."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = f"date: {format_date_time(second)}\r\n".encode()
        return self._line
