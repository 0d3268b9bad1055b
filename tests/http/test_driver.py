"""The way of every request, without a server: what the driver does to whatever a route answers."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from kycache.http.exchange.counts import Tally
from kycache.http.exchange.driver import Driver, Outcome, Route
from kycache.http.exchange.problems import Answer, Kind, Problem
from kycache.http.exchange.request import Request, RequestHeaders
from kycache.http.exchange.slow import Slow
from kycache.http.exchange.watch import Watch
from support.http_stand import Stand

JSON = ("Content-Type", "application/json")


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    counts = Tally().row(0)
    return Driver(Watch(Stand(tmp_path / "data").router(), counts), counts, 0.1)


def facts(*, head: bool = False) -> Request:
    return Request(b"/livez", b"", RequestHeaders([]), head)


async def answered(driver: Driver, outcome: Outcome | Exception, *, head: bool = False) -> Answer:
    def ask(_: Request) -> Outcome:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with ExitStack() as at_end:
        return await driver.answer(Route("/livez", ask), facts(head=head), at_end)


async def test_an_answer_has_its_length(driver: Driver) -> None:
    assert await answered(driver, Answer(200, (JSON,), b"{}")) == Answer(
        200, (("Content-Length", "2"), JSON), b"{}"
    )


async def test_head_has_the_length_and_no_body(driver: Driver) -> None:
    found = await answered(driver, Answer(200, (JSON,), b"{}"), head=True)
    assert found == Answer(200, (("Content-Length", "2"), JSON), b"")


async def test_not_modified_has_no_length(driver: Driver) -> None:
    assert await answered(driver, Answer(304, (), b"")) == Answer(304, (), b"")


@pytest.mark.parametrize("slow", [False, True])
async def test_the_unexpected_is_a_500_without_its_values(
    driver: Driver, slow: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Answer:
        raise KeyError("Lovelace")

    with caplog.at_level(logging.ERROR, "kycache.http"):
        found = await answered(driver, Slow(fail) if slow else KeyError("Lovelace"))
    assert found.status == 500
    assert b"internal-error" in found.body
    assert "/livez" in caplog.text
    assert "KeyError" in caplog.text
    assert "Lovelace" not in caplog.text


async def test_what_is_slow_is_made_elsewhere(driver: Driver) -> None:
    found = await answered(driver, Slow(lambda: Answer(200, (), b"slow")))
    assert (found.status, found.body) == (200, b"slow")


class Pieces:
    """A stream that notes whether its place is taken."""

    def __init__(self, *, full: bool = False) -> None:
        self.taken = 0
        self._full = full

    def pieces(self) -> Iterator[bytes]:
        yield b"piece"

    def running(self) -> AbstractContextManager[None]:
        return self._running()

    @contextmanager
    def _running(self) -> Iterator[None]:
        if self._full:
            raise Problem(Kind.TOO_MANY_EXPORTS, "All places are taken.")
        self.taken += 1
        yield
        self.taken -= 1


async def test_a_stream_gives_its_place_back_at_the_end(driver: Driver) -> None:
    stream = Pieces()
    with ExitStack() as at_end:
        found = await driver.answer(Route("/livez", lambda _: Answer(200, (), b"", stream)), facts(), at_end)
        assert found.stream is stream
        assert stream.taken == 1
        assert "Content-Length" not in dict(found.headers)
    assert stream.taken == 0


async def test_a_stream_without_a_place_is_a_problem(driver: Driver) -> None:
    assert (await answered(driver, Answer(200, (), b"", Pieces(full=True)))).status == 503


async def test_head_takes_no_place(driver: Driver) -> None:
    found = await answered(driver, Answer(200, (JSON,), b"", Pieces(full=True)), head=True)
    assert found == Answer(200, (JSON,), b"")


async def test_each_request_is_counted_by_its_route_and_status(tmp_path: Path) -> None:
    tally = Tally()
    counts = tally.row(0)
    driver = Driver(Watch(Stand(tmp_path / "data").router(), counts), counts, 0.1)
    await answered(driver, Answer(200, (), b""))
    await answered(driver, Problem(Kind.NOT_READY, "Not yet."))
    driver.refuse(Problem(Kind.NO_SUCH_ROUTE, "There is none."))
    counted = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for metric in tally.collect()
        if metric.name == "kycache_http_requests"
        for sample in metric.samples
    }
    assert counted == {("/livez", "200"): 1, ("/livez", "503"): 1, ("other", "404"): 1}
