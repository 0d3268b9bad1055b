"""How fresh a shard is. Pure.

as-of is the source's clock at the last commit applied; staleness = now - as-of + allowed clock skew. Without
heartbeat rows an idle shard is not told from a dead source: freshness is then known only up to Kafka, so as-of
and staleness are None.
"""

from collections.abc import Sequence
from typing import NamedTuple

from .reports import CUT_OFF, Doubt
from .state import ShardState

CLOCK_SKEW_S = 0.1
"""Allowed between the source's clock and this machine's: staleness is said with that much added, and a change that
bears a later time than that does not make a shard fresher (DESIGN 1)."""


class Freshness(NamedTuple):
    """How true an answer is."""

    as_of_ms: int | None
    watermark: int
    suspect: bool
    heartbeat: bool
    """False: how old it is, is known only up to Kafka."""
    cut_off: bool = False
    """Something is known to have happened that no shard was told of: no demand can be met."""


class Limits(NamedTuple):
    """Settings that freshness is judged by."""

    clock_skew_s: float = CLOCK_SKEW_S
    stale_after_s: float = 10.0


def concerns(doubt: Doubt, state: ShardState) -> bool:
    """Whether a doubt still holds for a shard: a whole snapshot taken behind it has put the shard right."""
    if state.bootstrapped and state.epoch > doubt.epoch:
        return False
    return not (state.streamed and state.generation is not None and state.generation > doubt.lsn > 0)


def freshness(
    states: Sequence[ShardState], doubts: Sequence[Doubt], *, profile_suspect: bool = False
) -> Freshness:
    """The freshness of an answer made of these shards: that of the least fresh one."""
    as_ofs = [s.known_as_of_ms for s in states]
    known = [as_of for as_of in as_ofs if as_of is not None]
    heartbeat = len(known) == len(as_ofs)
    held = [d for d in doubts if any(concerns(d, s) for s in states)]
    return Freshness(
        as_of_ms=min(known) if heartbeat else None,
        watermark=min(s.watermark for s in states),
        suspect=profile_suspect or bool(held) or any(s.doubts or s.altered is not None for s in states),
        heartbeat=heartbeat,
        cut_off=any(d.kind == CUT_OFF for d in held),
    )


def staleness_s(as_of_ms: int | None, now_s: float, limits: Limits) -> float | None:
    """Seconds that the source's newest applied commit may lie behind; never below 0."""
    return None if as_of_ms is None else max(0.0, now_s - as_of_ms / 1000 + limits.clock_skew_s)
