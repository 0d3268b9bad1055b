"""Building a generation beside the one that serves: when it takes over, and what a kill in between leaves."""

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import msgspec
import pytest
import trio

from kycache.actors.files.directory import DataDirectory, Node
from kycache.actors.files.environment import Environments
from kycache.actors.files.home import Home
from kycache.actors.generations.takeover import may_serve, take_over_when_due
from kycache.actors.integrity.vouching import MARK
from kycache.actors.router import Router
from kycache.actors.rules.freshness import Limits, concerns
from kycache.actors.rules.reports import Doubt
from kycache.actors.rules.standing import Standing
from kycache.actors.rules.state import Position, ShardState
from kycache.actors.shard import Opened
from kycache.actors.store.fence import Fence
from kycache.actors.store.store import FORMAT, Store
from kycache.actors.supervisor import ShardHolder
from kycache.ingest.consuming.topic import Topic
from kycache.ingest.decoding.decode import RecordDecoder
from kycache.ingest.remedies import rebuild
from kycache.ingest.remedies.rebuild import check_log, start_over
from kycache.model.change import Item
from kycache.model.definition import default_view, load_view
from kycache.model.errors import HaltShard, Refused
from support.command_line import RunCommand
from support.pipeline.fake_source import FakeSource
from support.shards import TOPIC, TOPIC_ID, Orders, ShardUnderTest
from support.waiting import until

VIEW = default_view()
WAIT_S = 20.0
WHOLE = Topic(TOPIC, TOPIC_ID, 1, (0,))


def state(offset: int, *, watermark: int, as_of_ms: int, epoch: int = 0, bootstrapped: bool = True) -> ShardState:
    return ShardState(
        Position(TOPIC, TOPIC_ID, 0, offset),
        bootstrapped=bootstrapped,
        watermark=watermark,
        as_of_ms=as_of_ms,
        high_water=100,
        epoch=epoch,
    )


SERVED = state(50, watermark=500, as_of_ms=5_000)


@pytest.mark.parametrize(
    ("built", "may"),
    [
        (state(40, watermark=400, as_of_ms=4_000), False),
        (state(50, watermark=500, as_of_ms=5_000), True),
        (state(60, watermark=600, as_of_ms=4_999), False),  # a reader would go back in time
        (state(60, watermark=499, as_of_ms=6_000), False),
        (
            state(100, watermark=400, as_of_ms=4_000),
            True,
        ),  # the source's clock went back; there is no more to read
        (state(100, watermark=900, as_of_ms=9_000, bootstrapped=False), False),
        (state(60, watermark=10, as_of_ms=6_000, epoch=1), True),  # LSNs of another history
        (state(60, watermark=10, as_of_ms=4_000, epoch=1), False),
    ],
)
def test_when_it_takes_over(built: ShardState, may: bool) -> None:
    assert may_serve(built, SERVED) is may


def test_a_copy_that_had_caught_up_when_it_was_made_waits_all_the_same() -> None:
    """It knows the log's end of then: what serves has read on since."""
    copied = state(40, watermark=400, as_of_ms=4_000)
    copied.high_water = 40
    assert not may_serve(copied, SERVED)
    # The same clock and watermark, and yet a change of the same transaction is missing.
    copied.position = msgspec.structs.replace(copied.position, offset=49)
    copied.high_water, copied.as_of_ms, copied.watermark = 49, SERVED.as_of_ms, SERVED.watermark
    assert not may_serve(copied, SERVED)


def test_where_a_shard_is_whole() -> None:
    node = Node(1, "id", VIEW.hash, TOPIC, TOPIC_ID, 1)
    assert check_log(node, WHOLE, 0) == 0
    with pytest.raises(HaltShard, match=r"no longer holds offset 0; .* `kycache rebuild --shard 0 --epoch`"):
        check_log(node, WHOLE._replace(starts=(7,)), 0)
    later = msgspec.structs.replace(node, epoch=1, starts=(9,))
    assert check_log(later, WHOLE._replace(starts=(7,)), 0) == 9
    # A topic made anew knows nothing of the former one's offsets.
    assert check_log(later, WHOLE._replace(id="another"), 0) == 0


def test_an_epoch_leaves_what_was_in_doubt_behind() -> None:
    """A truncate that no trigger carried, in a log that is not read any more."""
    doubt = Doubt("stale", 3, 17, "truncated without the trigger's rows", lsn=10**9)
    assert concerns(doubt, SERVED)
    assert concerns(doubt, state(1, watermark=1, as_of_ms=1, epoch=1, bootstrapped=False))
    assert not concerns(doubt, state(1, watermark=1, as_of_ms=1, epoch=1))


def test_what_happens_in_an_epoch_concerns_those_who_began_in_it(tmp_path: Path) -> None:
    """Also where the shard that says so is of an earlier one: others were started over alone (seen)."""
    directory = DataDirectory(tmp_path)
    directory.found(VIEW.hash, TOPIC, TOPIC_ID, 2)
    directory.rehome(lambda node: msgspec.structs.replace(node, epoch=3, starts=(100, 200)))
    began = state(1, watermark=1, as_of_ms=1, epoch=3)
    for offset, concerned in ((99, False), (100, True)):
        directory.add_doubts((Doubt("stale", 0, offset, "truncated", lsn=10**9 + offset, epoch=1),))
        assert any(concerns(doubt, began) for doubt in directory.doubts()) is concerned
        former = state(1, watermark=1, as_of_ms=1, epoch=1)
        assert all(concerns(doubt, former) for doubt in directory.doubts())


def test_what_happens_in_an_epoch_is_not_lost_behind_what_happened_before_it(tmp_path: Path) -> None:
    """A source that moved back has lower LSNs in the new epoch than where the former one came into doubt."""
    directory = DataDirectory(tmp_path)
    directory.found(VIEW.hash, TOPIC, TOPIC_ID, 1)
    directory.add_doubts((Doubt("stale", 0, 5, "truncated", lsn=9_000, epoch=1),))
    began = msgspec.structs.replace(state(1, watermark=1, as_of_ms=1, epoch=2), generation=400, streamed=True)
    assert not any(concerns(doubt, began) for doubt in directory.doubts())
    directory.add_doubts((Doubt("stale", 0, 7, "truncated again", lsn=500, epoch=2),))
    assert [doubt.offset for doubt in directory.doubts() if concerns(doubt, began)] == [7]
    # Which LSN it stands at nobody knows, so a snapshot does not end it, and no later one takes its place.
    directory.add_doubts((Doubt("stale", 0, 8, "of unknown place", epoch=2),))
    directory.add_doubts((Doubt("stale", 0, 9, "truncated", lsn=600, epoch=2),))
    assert [
        doubt.offset
        for doubt in directory.doubts()
        if concerns(doubt, msgspec.structs.replace(began, generation=700))
    ] == [8]


def test_two_doubts_within_a_tick_of_the_clock_are_two(tmp_path: Path) -> None:
    """What a reader saw between them must not pass for all there is."""
    directory = DataDirectory(tmp_path)
    directory.found(VIEW.hash, TOPIC, TOPIC_ID, 2)
    stamps = set()
    for shard in range(2):
        directory.add_doubts((Doubt("suspect", shard, 5, "a delete that names no user"),))
        os.utime(tmp_path / "suspect.json", ns=(1, 1))
        stamps.add(directory.doubts_stamp())
    assert len(stamps) == 2


def test_a_doubt_is_seen_by_the_next_look_of_a_reader(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.found(VIEW.hash, TOPIC, TOPIC_ID, 2)
    reads = Router(DataDirectory(tmp_path), Environments(readonly=True, map_size=1 << 20), VIEW, Limits())
    assert reads.doubts() == ()
    for shard in range(2):
        directory.add_doubts((Doubt("suspect", shard, 5, "a delete that names no user"),))
        assert [doubt.shard for doubt in reads.doubts()] == list(range(shard + 1))
    directory.clear_doubt("suspect", 0)
    assert [doubt.shard for doubt in reads.doubts()] == [1]
    (tmp_path / "suspect.json").unlink()
    assert reads.doubts() == ()


class Site:
    """A shard that serves, a log that goes on behind it, and holders that come and go."""

    def __init__(self, folder: Path) -> None:
        self.shard = ShardUnderTest(folder, VIEW)
        current = self.shard.folder.current()
        assert current is not None
        self.first_generation, self.first = current, int(current.name[4:])
        self.source = FakeSource(Random(5), 1)
        self.source.transactions(3)
        self.source.snapshot()
        for _ in range(5):
            self.source.transactions(2)
            self.source.beat()
        self.shard.apply(self.items())
        self.shard.store.close()
        self.reads = Router(self.shard.directory, self.shard.environments, VIEW, Limits(stale_after_s=1e9))
        assert self.reads.shard_count == 1

    def items(self) -> list[Item]:
        decoder = RecordDecoder(VIEW)
        return [decoder.decode(record) for record in self.source.records()[0]]

    def start_over(self, *, replace: bool = False, same_view: bool = True) -> None:
        node = self.shard.directory.node()
        assert node is not None
        home = Home(self.shard.directory, self.shard.environments, VIEW)
        start_over(home, node, WHOLE, 0, replace=replace, same_view=same_view)

    def open(self) -> Opened:
        """As ingest opens it."""
        until = take_over_when_due(self.shard.environments, self.shard.folder)
        self.shard.folder.clean()
        generation = self.shard.folder.building() if until else self.shard.folder.current()
        assert generation is not None
        store = Store(self.shard.environments, generation, VIEW, self.shard.identity, self.shard.doubts.extend)
        return Opened(store, TOPIC_ID, store.opened_at.position.offset, until)

    def generations(self) -> list[int]:
        """Counted from the one that there was at first, which is 1."""
        return sorted(int(p.name[4:]) - self.first + 1 for p in self.shard.folder.path.glob("gen-*"))

    def standing(self) -> Standing:
        return self.reads.status(0).standing

    def assert_serves_all(self) -> None:
        """Every user of the source, as the source has them."""
        for user_id in self.source.users:
            user = self.reads.user_id(user_id)
            assert user is not None
            assert self.shard.detail(user.key) == self.source.profile(user_id)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.reads.close()
    made.shard.store = made.open().store
    made.shard.close()


async def test_readers_keep_the_former_one_until_the_new_one_is_as_new(site: Site) -> None:
    site.start_over()
    served = site.shard.folder.current()
    items, orders = site.items(), Orders()
    position = site.shard.state.position.offset

    async def open_store() -> Opened:
        return site.open()

    holder = ShardHolder(site.shard.folder, open_store, orders.partition)

    def reached(offset: int) -> bool:
        return holder.actor is not None and holder.actor.state.position.offset >= offset

    async with trio.open_nursery() as nursery:
        nursery.start_soon(holder.run)
        for first in range(0, position, 20):
            await until(partial(reached, first))
            site.assert_serves_all()
            assert site.standing() is Standing.STALE
            assert "built anew" in site.reads.status(0).reason
            # Where none was ordered, it would wait for ever: it must not do that without a word, and a remedy.
            reason = site.reads.status(0).reason
            assert ("no row of a whole snapshot" in reason) is (first == 0), reason
            assert ("`kycache rebuild --epoch`" in reason) is (first == 0), reason
            assert site.shard.folder.current() == served
            end = min(first + 20, position)
            assert holder.actor is not None
            holder.actor.offer(orders.batch(items, first, end))
        await until(lambda: site.standing() is Standing.READY and len(orders.read_from) >= 2)
        await holder.release()
    assert orders.read_from == [0, position]  # built from the start; reading goes on where it is
    assert site.shard.folder.building() is None
    assert site.generations() == [2]
    site.assert_serves_all()


def test_a_writer_that_is_killed_goes_on_with_it(site: Site) -> None:
    site.start_over()
    items = site.items()
    opened = site.open()
    half = len(items) // 2
    opened.store.apply(items[:half], Position(TOPIC, TOPIC_ID, 0, half), len(items), Fence())
    opened.store.close()
    assert site.generations() == [1, 2]
    again = site.open()
    assert again.offset == half
    assert site.standing() is Standing.STALE
    site.assert_serves_all()
    again.store.apply(items[half:], Position(TOPIC, TOPIC_ID, 0, len(items)), len(items), Fence())
    again.store.close()  # killed here, before it could take over
    site.assert_serves_all()
    last = site.open()
    last.store.close()
    assert last.until is None
    assert site.generations() == [2]
    assert site.standing() is Standing.READY


def test_a_column_that_went_is_not_forgotten_by_starting_over(site: Site) -> None:
    """Of a definition that no longer fits a whole snapshot would bring nulls, and nobody would be told."""
    served = site.shard.state
    site.start_over()
    opened = site.open()
    built = opened.store.opened_at
    assert (built.unseen, built.seen_lsn) == (served.unseen, served.seen_lsn)
    assert len(built.unseen) == len(VIEW.tables)
    items = site.items()
    end = Position(TOPIC, TOPIC_ID, 0, len(items))
    applied = opened.store.apply(items, end, len(items), Fence())
    assert applied is not None
    assert applied.state.altered is None  # what came before the column has no say
    user_id = next(iter(site.source.users))
    site.source.users = {user_id: {k: v for k, v in site.source.users[user_id].items() if k != "last_name"}}
    site.source.snapshot()
    more = site.items()
    end = Position(TOPIC, TOPIC_ID, 0, len(more))
    applied = opened.store.apply(more[len(items) :], end, len(more), Fence())
    assert applied is not None
    assert applied.state.altered is not None
    assert applied.state.altered.lacking == "table users without last_name"
    opened.store.close()


def test_another_view_expects_no_columns(site: Site) -> None:
    site.start_over(same_view=False)
    opened = site.open()
    assert opened.store.opened_at.unseen == ()
    opened.store.close()


def test_a_kill_between_taking_over_and_forgetting_the_link(site: Site) -> None:
    site.start_over()
    folder = site.shard.folder
    built = folder.building()
    assert built is not None
    folder.flip(built)
    folder.build(built)  # as a kill before the link was removed leaves it
    assert folder.building() is None
    opened = site.open()
    opened.store.close()
    assert opened.until is None
    assert site.generations() == [2]


def test_another_rebuild_or_a_restore_gives_up_what_is_half_built(site: Site) -> None:
    site.start_over()
    site.start_over()
    site.open().store.close()
    assert site.generations() == [1, 3]
    restored = site.shard.folder.next_generation()
    site.shard.folder.flip(restored)
    assert site.shard.folder.building() is None
    restored.rmdir()
    site.shard.folder.flip(site.first_generation)


def test_replace_and_a_damaged_file_are_in_use_at_once(site: Site) -> None:
    site.start_over(replace=True)
    assert site.standing() is Standing.BOOTSTRAPPING
    site.open().store.close()
    assert site.generations() == [2]
    current = site.shard.folder.current()
    assert current is not None
    site.reads.close()
    site.shard.reader.close()
    (current / "data.mdb").write_bytes(b"x" * 8192)
    site.start_over()
    assert site.standing() is Standing.BOOTSTRAPPING


@pytest.mark.parametrize("found", ["whole", "damaged", "unchecked"])
def test_the_command_says_whether_anything_serves_meanwhile(
    tmp_path: Path, kycache: RunCommand, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    """A file that nobody vouches for, after a kill, is looked at first: it goes on serving where it is whole."""
    site = Site(tmp_path / "data")
    site.reads.close()
    site.shard.reader.close()
    if found == "damaged":
        os.truncate(site.first_generation / "data.mdb", 8192)
    if found != "whole":
        (site.first_generation / MARK).unlink()
    monkeypatch.setattr(rebuild, "describe_topic", lambda _: WHOLE)
    (tmp_path / "kycache.toml").write_text("[data]\nmap_size_gib = 1.0\n")
    ended = kycache("rebuild")
    assert ended.code == 0, ended.err
    serves = "nothing serves in its place: it answers 503" if found == "damaged" else "what serves goes on"
    assert ended.out == f"shard 0: is built anew; {serves} until then\n"
    assert (site.shard.folder.building() is None) is (found == "damaged")


def test_two_generations_need_room(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        free = 1

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Full)
    with pytest.raises(Refused, match=r"0 MiB are free for a second one.*--replace"):
        site.start_over()
    assert site.generations() == [1]
    site.start_over(replace=True)


def test_another_view_is_built_while_the_former_one_serves(site: Site, tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "model" / "kyc.toml"
    (tmp_path / "other.toml").write_text(path.read_text(encoding="utf-8").replace("pii", "open"), encoding="utf-8")
    other = load_view(tmp_path / "other.toml")
    directory = site.shard.directory
    node = directory.rehome(lambda node: msgspec.structs.replace(node, view=other.hash))
    start_over(Home(directory, site.shard.environments, other), node, WHOLE, 0)
    site.assert_serves_all()
    assert site.standing() is Standing.STALE
    reads = Router(directory, site.shard.environments, other, Limits())
    assert reads.shard_count == 1
    assert reads.status(0).standing is Standing.BOOTSTRAPPING  # no error: it is on its way
    reads.close()
    site.shard.folder.build(site.first_generation)  # back, for the fixture
    directory.rehome(lambda node: msgspec.structs.replace(node, view=VIEW.hash))
    assert site.shard.identity.format == FORMAT
