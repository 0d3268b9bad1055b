"""What `kycache doctor` concludes of the shards themselves. Pure: plain facts in, findings out."""

from collections.abc import Iterator, Sequence

from kycache.actors.rules.alteration import ALTERED_REMEDY, describe_alteration
from kycache.actors.rules.state import ShardState

from .topic_rules import Finding, several


def judge_alterations(states: Sequence[ShardState]) -> Iterator[Finding]:
    """Shards that are in doubt since their tables were altered at the source."""
    altered = {s.position.partition: s.altered for s in states if s.altered is not None}
    if altered:
        # What rows lack tells more than a beat.
        told = max(altered.values(), key=lambda each: (each.lacking != "", each.lsn))
        yield Finding(
            "alteration",
            f"every answer of shard {several(sorted(altered))} is suspect: {describe_alteration(told)}",
            ALTERED_REMEDY,
        )
