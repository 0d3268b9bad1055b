"""A shard with a history, a store beside it, and what a command needs to take and read snapshots of it."""

from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, TypedDict, Unpack

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.files.home import Home
from kycache.actors.generations.hot_copy import CopyLimits
from kycache.actors.integrity.vouching import Checker
from kycache.ingest.decoding.decode import RecordDecoder
from kycache.ingest.remedies.bring import bring
from kycache.model.change import Item
from kycache.model.definition import default_view
from kycache.snapshots.plan import HomeFacts, TopicFacts
from kycache.snapshots.restore import bring_back
from kycache.snapshots.storage.fetch import fetch
from kycache.snapshots.storage.keys import Keys, keys_of
from kycache.snapshots.storage.manifest import Manifest
from kycache.snapshots.storage.settings import SnapshotSettings
from kycache.snapshots.storage.stores import Store
from kycache.snapshots.take import Progress, Taker
from support.pipeline.fake_source import FakeSource
from support.shards import MAP_BYTES, ShardUnderTest

VIEW = default_view()
CHECKER = Checker(VIEW)
KEY = "a key of at least thirty-two characters"


class SettingsChanged(TypedDict, total=False):
    """Fields of `SnapshotSettings` that tests change."""

    store: str
    key: str | None
    recipients: tuple[str, ...]
    identity: Path | None
    allow_unencrypted: bool
    copying: CopyLimits
    part_bytes: int


@dataclass
class Stand:
    """Shards of one data directory, and a store."""

    root: Path
    source: FakeSource
    shards: list[ShardUnderTest]
    settings: SnapshotSettings

    @classmethod
    def make(
        cls, root: Path, shards: int = 1, *, seed: int = 5, rounds: int = 30, bootstrapped: bool = True
    ) -> "Stand":
        source = FakeSource(Random(seed), shards)
        source.snapshot()
        opened = Environments(readonly=False, map_size=MAP_BYTES)
        made = [
            ShardUnderTest(root / "data", VIEW, shard=n, shards=shards, environments=opened) for n in range(shards)
        ]
        stand = cls(root, source, made, SnapshotSettings((root / "store").as_uri()))
        if bootstrapped:
            stand.go_on(rounds)
        else:
            for shard in made:
                stand.follow(shard)
        return stand

    def go_on(self, rounds: int) -> None:
        """The source goes on, and the shards follow."""
        for _ in range(rounds):
            self.source.transactions(3)
        self.source.beat()
        for shard in self.shards:
            self.follow(shard)

    def follow(self, shard: ShardUnderTest) -> None:
        """Bring one shard up to date with its partition."""
        decoder = RecordDecoder(VIEW)
        position = shard.store.state().position
        records = self.source.records()[position.partition][position.offset :]
        items: list[Item] = [decoder.decode(record) for record in records]
        shard.apply(items)

    def set(self, **settings: Unpack[SettingsChanged]) -> None:
        """Change settings."""
        self.settings = replace(self.settings, **settings)

    def store(self) -> Store:
        return Store(self.settings.store, part_bytes=self.settings.part_bytes, writing=True)

    def keys(self, *, writing: bool = False) -> Keys:
        return keys_of(self.settings, self.store(), writing=writing)

    def take(self, shards: list[int] | None = None, progress: Progress | None = None) -> Manifest:
        """As `snapshot create` does, but in this process, which has the shards open already."""
        opened = self.shards[0].environments
        directory = self.shards[0].directory
        store, keys = self.store(), self.keys(writing=True)
        taker = Taker(directory, opened, store, keys, self.settings, CHECKER.ensure, progress or Progress())
        return taker.take(shards)

    def fetched(self, manifest: Manifest, shard: int = 0) -> Path:
        """A shard's file out of the store, in a folder of its own."""
        generation = self.root / f"fetched-{manifest.id}-{shard}"
        generation.mkdir(exist_ok=True)
        fetch(self.store(), self.keys(), manifest, manifest.entry(shard), generation)
        return generation

    def close(self) -> None:
        for shard in self.shards:
            shard.close()


def content_position(stand: Stand) -> int:
    """Opens the shard as it is now, whole, and says where it stands."""
    shard = stand.shards[0]
    shard.store = shard._open()
    offset = shard.store.opened_at.position.offset
    shard.close()
    return offset


def facts_of(manifest: Manifest, **changes: Any) -> TopicFacts:
    position = manifest.shards[0].position
    ends = tuple(entry.position.offset + 7 for entry in manifest.shards)
    topic = TopicFacts(position.topic, position.topic_id, (0,) * len(ends), ends)
    return topic._replace(**changes)


def home_of(manifest: Manifest, **changes: Any) -> HomeFacts:
    keeps = tuple(range(manifest.shard_count))
    return HomeFacts("data", manifest.view, manifest.shard_count, 0, (), keeps, 1 << 40)._replace(**changes)


def restored(
    stand: Stand,
    manifest: Manifest,
    directory: DataDirectory,
    *,
    replace: bool = True,
    store: Store | None = None,
    keys: Keys | None = None,
) -> None:
    """As `snapshot restore` does where nobody holds the shard."""

    def use(generation: Path) -> None:
        home = Home(directory, Environments(readonly=False, map_size=1 << 30), VIEW)
        bring(home, 0, generation.name, replace=replace)

    bring_back(store or stand.store(), keys or stand.keys(), manifest, manifest.entry(0), directory, VIEW, use)
