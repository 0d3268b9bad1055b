"""The way of every request from its facts to its answer, whatever asks and whichever lane it came in by.

    Request ──▶ kept ──▶ KeptAnswer                 it was made before, and holds still (fast lane)
         └─────▶ ask ──▶ Answer                     nearly all others, at once
                  └────▶ Wait, Slow ──▶ Answer      the view is not fresh enough yet; the answer takes long to make

What holds for all routes stands here once: problems become answers, the unexpected becomes a 500 without a value
in the log, HEAD gets the length and no body, and each request is counted.

New things enter here: what guards the routes, first in `begin` and `answer`; an answer that is fetched elsewhere
(from the source, from the node that holds the shard), as one more kind of `Later` in `_finish`.
"""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import trio

from kycache.model.errors import whereabouts

from .counts import Counts
from .demands import Wait
from .problems import Answer, Kind, Problem
from .request import Request
from .slow import Slow, make_giving_way
from .watch import Watch

Later = Wait | Slow
"""What must happen before there is an answer."""

Outcome = Answer | Later

log = logging.getLogger("kycache.http")


class KeptAnswer(NamedTuple):
    """An answer that was made before: its header lines, those that say how true it is, and its body."""

    status: int
    lines: bytes
    truth: bytes
    body: bytes


class Route(NamedTuple):
    """A route: as metrics, OpenAPI and the framework name it, and what answers it."""

    name: str
    ask: Callable[[Request], Outcome]
    """Synchronous. Raises `Problem` where there is nothing but an error to answer."""
    kept: Callable[[Request], KeptAnswer | None] = lambda _: None
    """An answer that is kept and holds for this request; where there is none, `ask` finds the answer."""


class Pending(NamedTuple):
    """A request that has no answer yet."""

    route: Route
    request: Request
    started_s: float
    later: Later


class Driver:
    """Answers requests. One per process.

    Args:
        freshness_wait_s: how long a request waits for the view to become as fresh as it demands.
    """

    def __init__(self, watch: Watch, counts: Counts, freshness_wait_s: float) -> None:
        self._watch = watch
        self._counts = counts
        self._freshness_wait_s = freshness_wait_s
        self._slow_turn = trio.Lock()  # two slow answers would take turns with each other, and both from the rest

    def begin(self, route: Route, request: Request) -> "KeptAnswer | Answer | Pending":
        """The answer of a route without streams where there is one at once, else what `finish` makes it of."""
        started_s = time.perf_counter()
        self._counts.count("lanes", "fast")
        try:
            kept = route.kept(request)
        except Exception as error:
            return self.unexpected(error, route=route.name, head=request.head)
        if kept is not None:
            self._counts.request(route.name, kept.status, time.perf_counter() - started_s)
            return kept._replace(body=b"") if request.head else kept
        outcome = self._ask(route, request)
        if not isinstance(outcome, Answer):
            return Pending(route, request, started_s, outcome)
        return self._counted(route.name, request, outcome, started_s)

    async def finish(self, pending: "Pending") -> Answer:
        """The answer that `begin` could not give at once."""
        answer = await self._finish(pending.later, pending.route, pending.request)
        return self._counted(pending.route.name, pending.request, answer, pending.started_s)

    async def answer(self, route: Route, request: Request, at_end: ExitStack) -> Answer:
        """The answer, ready to be sent; streams included.

        Args:
            at_end: closed by the caller when the answer has ended, in whatever way. It frees what a stream holds.
        """
        started_s = time.perf_counter()
        self._counts.count("lanes", "full")
        outcome = self._ask(route, request)
        answer = outcome if isinstance(outcome, Answer) else await self._finish(outcome, route, request)
        if answer.stream is not None and not request.head:
            try:
                at_end.enter_context(answer.stream.running())
            except Problem as problem:
                answer = problem.answer()
        return self._counted(route.name, request, answer, started_s)

    def refuse(self, problem: Problem, *, route: str = "other", head: bool = False) -> Answer:
        """The answer to a request that reached no route, or was cut off on its way there."""
        answer = problem.answer()
        self._counts.request(route, answer.status, 0.0)
        return _sendable(answer, head=head)

    def unexpected(self, error: Exception, *, route: str = "other", head: bool = False) -> Answer:
        """The answer where the server itself failed."""
        return self.refuse(_internal(route, error), route=route, head=head)

    def _ask(self, route: Route, request: Request) -> Outcome:
        try:
            return route.ask(request)
        except Problem as problem:
            return problem.answer()
        except Exception as error:
            return _internal(route.name, error).answer()

    async def _finish(self, later: Later, route: Route, request: Request) -> Answer:
        """Wait for what must happen first, and ask again."""
        ask = partial(self._ask, route, request)
        try:
            found = await self._fresh(later, ask)
            del later
            if isinstance(found, Answer):
                return found
            del found  # megabytes, of each request that waits for its turn
            async with self._slow_turn:
                found = await self._fresh(ask(), ask)
                if isinstance(found, Answer):
                    return found
                return await trio.to_thread.run_sync(make_giving_way, found)
        except Exception as error:
            return _internal(route.name, error).answer()

    async def _fresh(self, outcome: Outcome, ask: Callable[[], Outcome]) -> Answer | Slow:
        """Ask until the view is fresh enough; after `freshness_wait_s`, the refusal of the last asking."""
        if not isinstance(outcome, Wait):
            return outcome
        deadline = trio.current_time() + self._freshness_wait_s
        while isinstance(outcome, Wait):
            in_time = await self._watch.reached(outcome, deadline)
            outcome = ask()
            if not in_time and isinstance(outcome, Wait):
                self._counts.count("freshness_waits", "refused")
                return outcome.otherwise
        self._counts.count("freshness_waits", "reached")
        return outcome

    def _counted(self, route: str, request: Request, answer: Answer, started_s: float) -> Answer:
        self._counts.request(route, answer.status, time.perf_counter() - started_s)
        return _sendable(answer, head=request.head)


def _sendable(answer: Answer, *, head: bool) -> Answer:
    """With its length, where it has one: a stream has none, and 0 is not the length of what a 304 stands for."""
    if answer.stream is not None:
        return answer._replace(stream=None) if head else answer
    headers = answer.headers
    if answer.status != 304:
        headers = (("Content-Length", str(len(answer.body))), *headers)
    return Answer(answer.status, headers, b"" if head else answer.body)


def _internal(route: str, error: Exception) -> Problem:
    """What failed goes to the log, without the path or a value: both may hold personal data."""
    log.error("failed while answering %s: %s", route, whereabouts(error))
    return Problem(Kind.INTERNAL, "Something went wrong here; it is not your request.")
