"""Kafka Connect's REST interface, as far as kycache uses it: one connector, looked at or told to start over.

https://kafka.apache.org/documentation/#connect_rest
"""

import base64
import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, cast
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from kycache.model.errors import ConfigurationError, KycacheError, Refused, Unreachable

ANSWER_WAIT_S = 5.0
"""For what is only asked; it answers in milliseconds, but for while its workers divide their tasks anew."""

ORDER_WAIT_S = 90.0
"""For an order to be carried out: a task that stops flushes what it has, for as long as Connect lets it (5 s by
default, `task.shutdown.graceful.timeout.ms`), and workers may divide their tasks anew meanwhile."""

LOOK_S = 0.2

_NOT_YET = frozenset({400, 409, 500})
"""Answers that an order gets while a task is still stopping, or while the workers divide their tasks anew."""


class Login(NamedTuple):
    """HTTP Basic, which Kafka Connect's own extension takes, and every proxy."""

    username: str
    password: str

    @property
    def header(self) -> str:
        """The value of `Authorization`."""
        return f"Basic {base64.b64encode(f'{self.username}:{self.password}'.encode()).decode()}"


class KafkaConnect:
    """One connector of a Kafka Connect."""

    def __init__(self, url: str, name: str, login: Login | None = None) -> None:
        self.url = url
        self.name = name
        self._base = f"{url.rstrip('/')}/connectors/{quote(name, safe='')}"
        self._headers = {} if login is None else {"Authorization": login.header}

    def status(self) -> Mapping[str, Any] | None:
        """The connector's state and its tasks'; None where there is no such connector.

        Raises:
            Unreachable: Kafka Connect does not answer.
            ConfigurationError: it does not let us in.
        """
        return self._get("status")

    def config(self) -> Mapping[str, Any] | None:
        """The connector's configuration; None where there is no such connector.

        Raises:
            Unreachable: Kafka Connect does not answer.
            ConfigurationError: it does not let us in.
        """
        return self._get("config")

    def stop(self) -> None:
        """Stop the connector; returns when its tasks have ended.

        Raises:
            Unreachable: Kafka Connect does not answer, or the tasks do not end.
            Refused: there is no such connector.
        """
        self._order("PUT", "stop")
        deadline = time.monotonic() + ORDER_WAIT_S
        while time.monotonic() < deadline:
            status = self.status()
            if status and status["connector"]["state"] == "STOPPED" and not status["tasks"]:
                return
            time.sleep(LOOK_S)
        raise Unreachable(
            f"connector {self.name!r} does not stop within {ORDER_WAIT_S:.0f} s", "see Kafka Connect's log"
        )

    def drop_offsets(self) -> None:
        """Forget how far the stopped connector has read the source: its next start takes a whole snapshot.

        Raises:
            Unreachable: Kafka Connect does not answer, or cannot.
            Refused: there is no such connector.
        """
        self._order("DELETE", "offsets")

    def resume(self) -> None:
        """Start the connector again.

        Raises:
            Unreachable: Kafka Connect does not answer, or cannot.
            Refused: there is no such connector.
        """
        self._order("PUT", "resume")

    def _get(self, what: str) -> Mapping[str, Any] | None:
        try:
            return cast(Mapping[str, Any], json.loads(self._ask("GET", what, ANSWER_WAIT_S)))
        except HTTPError as error:
            if error.code == 404:
                return None
            raise self._refused(error.code, "") from None
        except (URLError, OSError, ValueError) as error:
            raise self._unreachable(getattr(error, "reason", None) or type(error).__name__) from None

    def _order(self, method: str, what: str) -> None:
        deadline = time.monotonic() + ORDER_WAIT_S
        while True:
            try:
                self._ask(method, what, ORDER_WAIT_S)
                return
            except HTTPError as error:
                if error.code == 404:
                    unknown = "" if what == "resume" else f", or knows no `{method} {what}` (3.6 does)"
                    raise Refused(
                        f"Kafka Connect has no connector {self.name!r}{unknown}",
                        "set `[connector] name`; or do it by hand: docs/operations.md, “A whole snapshot”",
                    ) from None
                if error.code not in _NOT_YET or time.monotonic() > deadline:
                    raise self._refused(error.code, f" to {method} {what}") from None
            except (URLError, OSError) as error:
                raise self._unreachable(getattr(error, "reason", None) or type(error).__name__) from None
            time.sleep(LOOK_S)

    def _ask(self, method: str, what: str, wait_s: float) -> bytes:
        try:
            request = Request(f"{self._base}/{what}", headers=self._headers, method=method)
            with urlopen(request, timeout=wait_s) as answer:
                body: bytes = answer.read()
                return body
        except HTTPError as error:
            error.close()
            raise

    def _refused(self, status: int, asked: str) -> KycacheError:
        if status not in (401, 403):
            return self._unreachable(f"status {status}{asked}")
        return ConfigurationError(
            f"Kafka Connect at {self.url} does not let us in: status {status}{asked}",
            "set `[connect] username` and `password` to a login that it takes",
        )

    def _unreachable(self, reason: object) -> Unreachable:
        return Unreachable(
            f"Kafka Connect does not answer at {self.url}: {reason}",
            "check `[connect] url` and that Kafka Connect runs",
        )
