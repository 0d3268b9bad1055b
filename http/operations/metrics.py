"""`/metrics`: the requests of all workers, and every shard of the data directory as it stands."""

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.snapshot_report import read_report
from kycache.actors.router import Router
from kycache.actors.rules.standing import ShardStatus, Standing
from kycache.actors.rules.state import Counters
from kycache.http.exchange.counts import Tally
from kycache.http.exchange.problems import Answer

from .health import read_statuses


class ShardCollector(Collector):
    """Reads the shards at each scrape: their files are the truth, also where another process writes them."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def collect(self) -> Iterator[Metric]:
        """One sample per shard and fact; none for what a shard does not know."""
        statuses = read_statuses(self._router)
        yield self._states(statuses)
        yield _gauge(
            "staleness_seconds",
            "Age of the newest source commit applied.",
            [(s.shard, s.staleness_s) for s in statuses],
        )
        known = [(s.shard, s.state) for s in statuses if s.state is not None]
        yield _gauge(
            "watermark_lsn",
            "Every source transaction at or below this LSN is in the view.",
            [(n, state.watermark) for n, state in known],
        )
        yield _gauge("users", "Users in the view.", [(n, state.users) for n, state in known])
        yield _gauge(
            "lag_records",
            "Records of the partition not yet applied, as of the last fetch.",
            [(n, max(0, state.high_water - state.position.offset)) for n, state in known],
        )
        yield _gauge(
            "quarantined_records", "Records in quarantine now.", [(n, state.quarantined) for n, state in known]
        )
        yield _gauge(
            "suspect_profiles", "Profiles under suspicion now.", [(n, state.suspects) for n, state in known]
        )
        yield _gauge(
            "altered",
            "1 while every answer is suspect since the source's tables were altered.",
            [(n, int(state.altered is not None)) for n, state in known],
        )
        changes = CounterMetricFamily(
            "kycache_shard_changes", "What became of the records read.", labels=["shard", "outcome"]
        )
        for number, state in known:
            for name, count in _counters(state.counters):
                changes.add_metric([str(number), name], count)
        yield changes

    @staticmethod
    def _states(statuses: list[ShardStatus]) -> Metric:
        family = GaugeMetricFamily(
            "kycache_shard_state", "1 for the state the shard is in.", labels=["shard", "state"]
        )
        for status in statuses:
            for standing in Standing:
                family.add_metric([str(status.shard), standing], float(status.standing is standing))
        return family


def _counters(counters: Counters) -> list[tuple[str, int]]:
    return [(name, int(count)) for name, count in msgspec.structs.asdict(counters).items()]


def _gauge(name: str, text: str, samples: "list[tuple[int, float | None]] | list[tuple[int, int]]") -> Metric:
    family = GaugeMetricFamily(f"kycache_shard_{name}", text, labels=["shard"])
    for shard, value in samples:
        if value is not None:
            family.add_metric([str(shard)], value)
    return family


class SnapshotCollector(Collector):
    """What became of the data directory's snapshots, whichever process takes them."""

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory

    def collect(self) -> Iterator[Metric]:
        """The newest good one, once there is one; and how many failed."""
        report = read_report(self._directory)
        age = report.age_s(datetime.now(UTC))
        if age is not None:
            for name, text, value in (
                ("age_seconds", "Age of the newest good snapshot.", age),
                ("duration_seconds", "How long it took.", report.duration_s),
                ("bytes", "Its size in the store.", float(report.bytes)),
            ):
                yield GaugeMetricFamily(f"kycache_snapshot_{name}", text, value=value)
        failures = CounterMetricFamily("kycache_snapshot_failures", "Snapshots that could not be taken.")
        failures.add_metric([], report.failures)
        yield failures


class _TallyCollector(Collector):
    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        return self._tally.collect()


class Exposition:
    """`GET /metrics`, with a registry of its own."""

    def __init__(self, router: Router, tally: Tally) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_TallyCollector(tally))
        self._registry.register(ShardCollector(router))
        self._registry.register(SnapshotCollector(router.directory))

    def answer(self) -> Answer:
        """All samples, in Prometheus's text format."""
        headers = (("Content-Type", CONTENT_TYPE_LATEST), ("Cache-Control", "no-store"))
        return Answer(200, headers, generate_latest(self._registry))
