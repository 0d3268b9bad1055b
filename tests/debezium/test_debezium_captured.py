"""Events captured from a real Debezium on four partitions, replayed into four shards: each is as Postgres was."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from support.pipeline.captured import PARTITIONS, Cluster, Order, Scenario, scenarios

Play = Callable[[Cluster, Scenario, random.Random], None]


def whole(order: Order) -> Play:
    """Each partition's records in one batch, one partition after another."""

    def play(cluster: Cluster, scenario: Scenario, rng: random.Random) -> None:
        del rng
        for p in order:
            cluster.deliver(p, scenario.of(p))

    return play


def one_by_one(order: Order) -> Play:
    """Record by record, one partition after another."""

    def play(cluster: Cluster, scenario: Scenario, rng: random.Random) -> None:
        del rng
        for p in order:
            for captured in scenario.of(p):
                cluster.deliver(p, [captured])

    return play


def interleaved(cluster: Cluster, scenario: Scenario, rng: random.Random) -> None:
    """Batches of any size, from any partition that has more, with restarts between."""
    left = {p: scenario.of(p) for p in range(PARTITIONS)}
    while left := {p: records for p, records in left.items() if records}:
        p = rng.choice(list(left))
        size = rng.choice([1, 2, 3, 5, 8, 40])
        cluster.deliver(p, left[p][:size])
        left[p] = left[p][size:]
        if rng.random() < 0.02:
            cluster.shards[p].reopen()


def again_and_again(cluster: Cluster, scenario: Scenario, rng: random.Random) -> None:
    """`1 2 3 2 3 4`: the connector goes back to an earlier place now and then, as after a crash.

    Not over a snapshot: one that starts anew is a later one, and does not come with the old LSN. Nor from within a
    transaction that truncates: see below.
    """
    for p in range(PARTITIONS):
        records, at, repeats = scenario.of(p), 0, 6
        while at < len(records):
            size = rng.choice([2, 5, 20])
            cluster.deliver(p, records[at : at + size])
            at += size
            back = max(0, at - rng.choice([1, 4, 30]))
            inside = at < len(records) and any(c.op == "t" for c in records)
            if repeats and not inside and all(c.op != "r" for c in records[back:at]):
                repeats -= 1
                at = back


PLAYS = {
    "whole-0123": (whole([0, 1, 2, 3]), 0),
    "whole-3210": (whole([3, 2, 1, 0]), 0),
    "one-by-one": (one_by_one([2, 0, 3, 1]), 0),
    **{f"interleaved-{seed}": (interleaved, seed) for seed in range(4)},
    **{f"redelivered-{seed}": (again_and_again, seed) for seed in range(3)},
}


@pytest.mark.parametrize(("play", "seed"), list(PLAYS.values()), ids=list(PLAYS))
def test_after_every_scenario_each_shard_is_as_postgres_was(cluster: Cluster, play: Play, seed: int) -> None:
    rng = random.Random(seed)
    for scenario in scenarios().values():
        play(cluster, scenario, rng)
        try:
            cluster.check(scenario)
        except AssertionError as error:
            error.add_note(f"scenario {scenario.name}")
            raise


@pytest.mark.parametrize("partition", range(PARTITIONS))
def test_one_partition_to_its_end_before_the_others(tmp_path: Path, partition: int) -> None:
    """Either order of arrival converges (DEBEZIUM 14): one shard is done before the others have begun."""
    cluster = Cluster(tmp_path)
    for p in [partition, *(p for p in range(PARTITIONS) if p != partition)]:
        for scenario in scenarios().values():
            cluster.deliver(p, scenario.of(p))
    cluster.check(list(scenarios().values())[-1])
    cluster.close()
