"""A topic of its own on a real broker, a source that writes it, and ingest processes that read it."""

import json
import random
from pathlib import Path
from typing import Any

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.router import Router
from kycache.actors.rules.freshness import Limits
from kycache.cli.doctor.command import Look, diagnose
from kycache.cli.doctor.topic_rules import Finding
from kycache.cli.settings.loading import load_settings
from kycache.model.definition import default_view
from kycache.model.render import Renderer
from support.pipeline.fake_source import FakeSource
from support.pipeline.ingest_process import Feed, Home, make_topic, offset
from support.shards import MAP_BYTES

PARTITIONS = 3


VIEW = default_view()


class Scene:
    """A topic, a source that feeds it, and a home to read it into."""

    def __init__(
        self, folder: Path, bootstrap: str, topic: str, partitions: int = PARTITIONS, compression: str = "producer"
    ) -> None:
        make_topic(bootstrap, topic, partitions, compression)
        self.home = Home(folder, bootstrap, topic)
        self.feed = Feed(bootstrap, topic, FakeSource(random.Random(topic), partitions))
        self.source = self.feed.source

    def begin(self) -> None:
        """A first snapshot and some life after it."""
        self.source.transactions(4)
        self.source.snapshot()
        self.live()

    def live(self, rounds: int = 5) -> None:
        """Some transactions and a beat."""
        for _ in range(rounds):
            self.source.transactions(2)
        self.source.beat()
        self.feed.send()

    def wait_caught_up(self, more: int = 0) -> list[dict[str, Any]]:
        """Until every partition is read to its end, `more` raw records included."""
        ends = self.feed.end_offsets()
        return self.home.wait(lambda shards: sum(offset(s) for s in shards) == sum(ends) + more, "not caught up")

    def doctor(self, *looks: Look) -> list[Finding]:
        """What `kycache doctor` finds, but for the fake source's clock, which stands in the past."""
        found = diagnose(load_settings(self.home.configuration), looks).findings
        return [f for f in found if f.check not in ("heartbeats", "retention")]

    def start_over_by_hand(self, *options: str) -> None:
        """The remedy `rebuild --epoch`, where no Kafka Connect takes the order: the snapshot is the source's."""
        done = self.home.run("rebuild", "--epoch", "--by-hand", "--yes", *options)
        assert done.returncode == 0, done.stderr
        self.source.snapshot()
        self.live()

    def wait_equal(self, more: int = 0) -> None:
        """Until every shard is read to its end and serves what it has read, and that is what the source holds."""

        def done(shards: list[dict[str, Any]]) -> bool:
            stale = [s["state"] == "stale" and "seen is" in s["reason"] for s in shards]  # the source's clock
            return all(stale) and sum(offset(s) for s in shards) == sum(self.feed.end_offsets()) + more

        self.home.wait(done, "does not converge")
        self.assert_equals_source()

    def assert_equals_source(self) -> None:
        """Every profile is what the source holds, read from the files as a web process does."""
        opened = Environments(readonly=True, map_size=MAP_BYTES)
        reads = Router(DataDirectory(self.home.folder / "data"), opened, VIEW, Limits())
        renderer = Renderer(VIEW)
        for user_id in self.source.users:
            user = reads.user_id(user_id)
            assert user is not None
            with reads.snapshot(reads.shard_of(user)) as snapshot:
                profile = snapshot.profile(user.key)
                assert profile is not None
                assert json.loads(renderer.body(profile)) == self.source.profile(user_id)
        assert sum((reads.state(n) or _none()).users for n in range(PARTITIONS)) == len(self.source.users)
        reads.close()


def _none() -> Any:
    raise AssertionError("a shard has no store")
