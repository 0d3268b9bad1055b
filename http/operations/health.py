"""`/livez` and `/readyz`: whether this process is alive, and whether it should get requests."""

import msgspec

from kycache.actors.router import Router
from kycache.actors.rules.standing import ShardStatus, Standing
from kycache.http.exchange.problems import Answer, Kind, Problem
from kycache.http.reads.query import parse_parameters
from kycache.model.errors import Refused

_HEADERS = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))


def read_statuses(router: Router) -> list[ShardStatus]:
    """How each shard stands; none where the data directory is not one of this view: nothing here can serve."""
    try:
        return router.statuses()
    except Refused:
        return []


class Health:
    """What the two health routes answer. `draining` is set while the server shuts down."""

    def __init__(self, router: Router) -> None:
        self.draining = False
        self._router = router
        self._ready_once: set[int] = set()

    @staticmethod
    def live() -> Answer:
        """The thread that answers requests answers."""
        return Answer(200, _HEADERS, b'{"live":true}')

    def readiness(self, query: bytes) -> Answer:
        """200 or 503, and how each shard stands; `strict=1` demands that all are ready.

        Raises:
            Problem: another parameter, or another value.
        """
        strict = parse_parameters(query, {"strict"}).get("strict", "0")
        if strict not in ("0", "1"):
            raise Problem(Kind.INVALID_PARAMETER, "strict is 1, or is left out.", "strict")
        statuses = read_statuses(self._router)
        ready = self._ready(statuses, strict=strict == "1")
        shards = [
            {
                "shard": s.shard,
                "state": s.standing,
                "stalenessSeconds": None if s.staleness_s is None else round(s.staleness_s, 3),
            }
            for s in statuses
        ]
        body = msgspec.json.encode({"ready": ready, "shards": shards})
        return Answer(200 if ready else 503, (*_HEADERS, *(() if ready else (("Retry-After", "1"),))), body)

    def _ready(self, statuses: list[ShardStatus], *, strict: bool) -> bool:
        serving = {s.shard for s in statuses if s.state is not None and s.state.bootstrapped}
        # Bootstrapped is what "was ready once" means to a shard, and its file remembers it: a process that
        # starts while the source is away serves what it has, labelled. A shard being rebuilt stays in the set.
        # A file that was found damaged stays so until an operator mends it, and keeps no other shard from
        # serving: its own answers are 503. One that is still walked will be served within seconds: wait for it.
        damaged = {
            s.shard
            for s in statuses
            if s.state is None and s.standing is not Standing.BOOTSTRAPPING and self._router.has_store(s.shard)
        }
        self._ready_once |= serving | damaged
        if self.draining or not serving or len(self._ready_once) < len(statuses):
            return False
        return not strict or all(s.standing is Standing.READY for s in statuses)
