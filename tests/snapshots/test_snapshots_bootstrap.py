"""A shard without a file: which snapshot it comes back from, and what becomes of it where none will do."""
# ruff: noqa: ARG001 (the clock is asked for by its name)

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyrage
import pytest
import trio
import trio.testing

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.home import Home
from kycache.ingest.remedies.bring import bring
from kycache.model.errors import Refused
from kycache.model.scalars.times import TimePrecision
from kycache.snapshots import bootstrap
from kycache.snapshots.bootstrap import Bootstrap, Brought, Failed, Job, Nothing, Skips, Takes, Word, _last_word
from kycache.snapshots.filling import fill
from kycache.snapshots.home import home_facts, make_home
from kycache.snapshots.plan import TopicFacts, passed_over, step_of
from kycache.snapshots.storage.manifest import Manifest
from support.snapshot_stand import KEY, VIEW, Stand, content_position, facts_of, home_of
from support.waiting import until


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand.make(tmp_path, 2, rounds=10)


def emptied(stand: Stand, name: str = "new") -> DataDirectory:
    """The directory of a node that has read nothing yet."""
    directory = DataDirectory(stand.root / name)
    position = stand.shards[0].state.position
    directory.found(VIEW.hash, position.topic, position.topic_id, 2)
    directory.shard(0).prepare()
    return directory


def topic_of(stand: Stand, **changes: Any) -> TopicFacts:
    """The topic as the stand's source has filled it."""
    position = stand.shards[0].state.position
    ends = tuple(len(records) for records in stand.source.records())
    return TopicFacts(position.topic, position.topic_id, (0, 0), ends)._replace(**changes)


def job_of(stand: Stand, directory: DataDirectory, **changes: Any) -> Job:
    home = home_facts(directory, VIEW.hash)
    return Job(stand.settings, str(directory.root), 0, VIEW, topic_of(stand, **changes), home)


def generation(directory: DataDirectory, word: Word) -> Path:
    """What a last word brought into use."""
    assert isinstance(word, Brought)
    folder = directory.shard(0)
    assert folder.current() is None
    folder.flip(folder.path / word.generation)
    folder.clean()
    assert [path.name for path in folder.path.glob("gen-*")] == [word.generation]
    return folder.path / word.generation


class TestStep:
    """Pure: what a snapshot is worth to one shard, or why it is worth nothing."""

    @pytest.fixture
    def manifest(self, stand: Stand) -> Manifest:
        manifest = stand.take()
        stand.close()
        return manifest

    def test_what_is_to_be_read_afterwards(self, manifest: Manifest) -> None:
        assert step_of(manifest, facts_of(manifest), home_of(manifest), 1) == (manifest.entry(1), 7)

    def test_what_the_log_no_longer_holds_or_never_held(self, manifest: Manifest) -> None:
        offset = manifest.entry(1).position.offset
        with pytest.raises(Refused, match="the log begins at"):
            step_of(manifest, facts_of(manifest, starts=(0, offset + 1)), home_of(manifest), 1)
        with pytest.raises(Refused, match="the log ends at 0"):
            step_of(manifest, facts_of(manifest, ends=(0, 0)), home_of(manifest), 1)

    def test_one_that_does_not_hold_the_shard_is_none(self, manifest: Manifest) -> None:
        some = msgspec.structs.replace(manifest, shards=manifest.shards[:1])
        assert step_of(some, facts_of(manifest), home_of(manifest), 1) is None

    def test_an_empty_directory_takes_a_later_epoch_and_no_other_does(self, manifest: Manifest) -> None:
        entries = tuple(msgspec.structs.replace(e, epoch=2) for e in manifest.shards)
        later = msgspec.structs.replace(manifest, shards=entries)
        for home in (home_of(manifest, keeps=()), home_of(manifest, epoch=2)):
            assert step_of(later, facts_of(manifest), home, 1) is not None
        for home in (home_of(manifest), home_of(manifest, epoch=3, keeps=())):
            with pytest.raises(Refused, match="is of epoch 2"):
                step_of(later, facts_of(manifest), home, 1)

    @pytest.mark.parametrize(
        ("epochs", "home", "fits"),
        [
            # Here shard 1 was ordered to start over, with --shard; the other one goes on as it was.
            ((0, 0), {"epoch": 1, "oldest": (0, 1)}, (True, False)),
            ((0, 1), {"epoch": 1, "oldest": (0, 1)}, (True, True)),
            ((1, 1), {"epoch": 2, "oldest": (2, 2)}, (False, False)),
            # Elsewhere: a new node takes both, in whichever order.
            ((0, 1), {"epoch": 0, "keeps": ()}, (True, True)),
            ((0, 1), {"epoch": 1, "keeps": (1,)}, (True, True)),
            ((0, 1), {"epoch": 0, "keeps": (0,)}, (True, True)),
            ((0, 0), {"epoch": 1, "keeps": ()}, (False, False)),
            ((0, 1), {"epoch": 0}, (True, False)),
        ],
    )
    def test_epochs_of_single_shards(
        self, manifest: Manifest, epochs: tuple[int, int], home: dict[str, Any], fits: tuple[bool, bool]
    ) -> None:
        entries = tuple(
            msgspec.structs.replace(e, epoch=epoch) for e, epoch in zip(manifest.shards, epochs, strict=True)
        )
        mixed = msgspec.structs.replace(manifest, shards=entries)

        def fit(shard: int) -> bool:
            try:
                return step_of(mixed, facts_of(manifest), home_of(manifest, **home), shard) is not None
            except Refused:
                return False

        assert (fit(0), fit(1)) == fits

    def test_a_newer_one_that_lacks_the_shard_says_which_older_ones_will_not_do(self, manifest: Manifest) -> None:
        entries = (msgspec.structs.replace(manifest.shards[0], epoch=1),)
        newer = msgspec.structs.replace(manifest, shards=entries)
        home = passed_over(home_of(manifest, keeps=()), newer, facts_of(manifest))
        with pytest.raises(Refused, match="is of epoch 0"):
            step_of(manifest, facts_of(manifest), home, 1)


def test_a_shard_comes_back_and_tells(stand: Stand) -> None:
    stand.take()
    stand.go_on(2)
    manifest = stand.take()
    stand.go_on(2)
    directory = emptied(stand)
    takes, brought = fill(job_of(stand, directory))
    entry = manifest.entry(0)
    behind = len(stand.source.records()[0]) - entry.position.offset
    assert takes == Takes(manifest.id, manifest.created_at, entry.raw_bytes, behind)
    generation(directory, brought)
    stand.shards[0].folder = directory.shard(0)
    stand.close()
    assert content_position(stand) == entry.position.offset


def test_a_damaged_one_is_passed_over_for_an_older_one(stand: Stand) -> None:
    """Damaged inside, and by name: what was fetched of it does not stay."""
    older = stand.take()
    middle = stand.take()
    newer = stand.take()
    stand.close()
    store = stand.root / "store"
    (store / newer.id / newer.entry(0).file).unlink()
    file = store / middle.id / middle.entry(0).file
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    directory = emptied(stand)
    words = list(fill(job_of(stand, directory)))
    assert [(type(word), getattr(word, "snapshot", None)) for word in words] == [
        (Skips, newer.id),
        (Takes, middle.id),
        (Skips, middle.id),
        (Takes, older.id),
        (Brought, older.id),
    ]
    assert isinstance(words[2], Skips)
    assert "checksum" in words[2].reason
    generation(directory, words[-1])


def test_an_epoch_comes_along(stand: Stand) -> None:
    manifest = stand.take()
    stand.close()
    directory = emptied(stand)
    entry = msgspec.structs.replace(manifest.entry(0), epoch=3)
    make_home(directory, msgspec.structs.replace(manifest, shards=(entry,)), entry)
    node = directory.node()
    assert node is not None
    assert node.epoch == 3


def test_a_store_that_nobody_has_written_to(stand: Stand) -> None:
    """It has no key yet either, which is no failure."""
    directory = emptied(stand)
    assert list(fill(job_of(stand, directory))) == [Nothing(0)]
    stand.take()
    (skips, nothing) = fill(job_of(stand, directory, id="another"))
    assert isinstance(skips, Skips)
    assert "with id another" in skips.reason
    assert nothing == Nothing(1)
    stand.close()


def test_what_is_wrong_with_the_store_or_the_disk_is_told(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    stand.take()
    stand.close()
    directory = emptied(stand)
    key = stand.root / "store" / "store.key"
    kept = key.read_text()
    key.unlink()
    (failed,) = fill(job_of(stand, directory))
    assert isinstance(failed, Failed)
    assert "no store.key" in failed.problem
    assert not failed.away
    key.write_text(kept)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kycache.snapshots.filling.bring_back", full)
    *_, failed = fill(job_of(stand, directory))
    assert isinstance(failed, Failed)
    assert "No space left" in failed.problem
    stand.set(store=(stand.root / "store" / "store.key" / "below").as_uri())
    (failed,) = fill(job_of(stand, directory))
    assert isinstance(failed, Failed)
    assert failed.away


def test_without_its_identity_an_encrypted_one_is_passed_over(stand: Stand) -> None:
    identity = pyrage.x25519.Identity.generate()
    (stand.root / "identity").write_text(str(identity))
    stand.set(recipients=(str(identity.to_public()),))
    stand.take()
    stand.close()
    _, skips, nothing = fill(job_of(stand, emptied(stand)))
    assert isinstance(skips, Skips)
    assert "is encrypted" in skips.reason
    assert nothing == Nothing(1)
    stand.set(identity=stand.root / "identity")
    *_, brought = fill(job_of(stand, emptied(stand)))
    assert isinstance(brought, Brought)


async def asked(stand: Stand, directory: DataDirectory, **changes: Any) -> str | None:
    """As ingest asks, by the child process."""
    with trio.fail_after(60):
        return await Bootstrap(stand.settings, directory, VIEW, lambda: topic_of(stand, **changes))(0)


async def test_the_child_brings_it_and_ingest_uses_it(stand: Stand) -> None:
    manifest = stand.take()
    directory = emptied(stand)
    name = await asked(stand, directory)
    report = directory.shard(0).report()
    assert report is not None
    assert report.state == "restoring"
    assert manifest.id in report.reason
    assert name is not None
    bring(Home(directory, stand.shards[0].environments, VIEW), 0, name, replace=True)
    assert directory.shard(0).current_name() == name
    stand.close()


async def test_a_log_in_another_unit_of_times_is_not_read_either(stand: Stand) -> None:
    """Where a snapshot shows it, the new directory was made for another log than there is."""
    stand.take()
    directory = emptied(stand)
    directory.rehome(lambda node: msgspec.structs.replace(node, times=TimePrecision.ADAPTIVE))
    with pytest.raises(Refused, match=r"a log in time\.precision\.mode=microseconds") as refused:
        await Bootstrap(stand.settings, directory, VIEW, lambda: topic_of(stand))(0)
    assert "set `[kafka] time_precision_mode` to microseconds" in refused.value.remedy
    stand.close()


async def test_a_process_that_cannot_be_started_may_be_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of memory or processes: tried again as a store is that is away, and the shard is not halted."""
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    word = await _last_word(b"{}", lambda _: None)
    assert isinstance(word, Failed)
    assert word.away
    assert "No such file" in word.problem


async def test_out_of_a_bucket(stand: Stand, bucket: str) -> None:
    """Encrypted; the child finds the bucket by the same variables."""
    identity = pyrage.x25519.Identity.generate()
    (stand.root / "identity").write_text(str(identity))
    recipients = (str(identity.to_public()),)
    stand.set(store=f"{bucket}/bootstrap", key=KEY, recipients=recipients, identity=stand.root / "identity")
    stand.take()
    directory = emptied(stand)
    name = await asked(stand, directory)
    assert name is not None
    assert (directory.shard(0).path / name / "data.mdb").exists()
    stand.close()


async def test_cancelled_it_leaves_nothing_that_stays(stand: Stand) -> None:
    stand.take()
    directory = emptied(stand)
    folder = directory.shard(0)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked, stand, directory)
            await until(lambda: list(folder.path.glob("gen-*")))
            nursery.cancel_scope.cancel()
        while list(folder.path.glob("gen-*")):
            folder.clean()  # a child of the child may hold on to its lock for as long as a fork takes
            await trio.sleep(0.002)
    stand.close()


Clock = trio.testing.MockClock
Last = Callable[[bytes, Callable[[Word], None]], Any]


def scripted(words: list[Word]) -> Last:
    """A child that says these, one each time; the last one for ever."""

    async def last_word(_job: bytes, _heard: Callable[[Word], None]) -> Word:
        await trio.lowlevel.checkpoint()
        return words.pop(0) if len(words) > 1 else words[0]

    return last_word


@pytest.fixture
def away(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Word]]:
    """What a store says that does not answer; a test puts more behind it."""
    words: list[Word] = [Failed("it does not answer", "see to it", away=True)]
    monkeypatch.setattr(bootstrap, "_last_word", scripted(words))
    yield words
    stand.close()


def ask(stand: Stand, **changes: Any) -> Bootstrap:
    return Bootstrap(stand.settings, emptied(stand), VIEW, lambda: topic_of(stand, **changes))


async def test_a_store_that_does_not_answer_gives_way_to_a_whole_log(
    stand: Stand, away: list[Word], autojump_clock: Clock
) -> None:
    assert away

    began = trio.current_time()
    assert await ask(stand)(0) is None
    assert bootstrap.STORE_WAIT_S <= trio.current_time() - began <= bootstrap.STORE_WAIT_S + 60


async def test_where_the_log_is_not_whole_it_is_waited_for(
    stand: Stand, away: list[Word], autojump_clock: Clock
) -> None:
    """For as long as it takes: a blip of the store must not halt a new region."""
    away[:] = [*away * 30, Brought("id", "gen-000009")]
    began = trio.current_time()
    assert await ask(stand, starts=(1, 0))(0) == "gen-000009"
    assert trio.current_time() - began > bootstrap.STORE_WAIT_S


async def test_where_neither_will_do_the_shard_is_refused(
    stand: Stand, away: list[Word], autojump_clock: Clock
) -> None:
    for last, why in (
        (Nothing(0), "there are no snapshots in file:"),
        (Nothing(3), "no snapshot in file:"),
        (Failed("the key is wrong", "set it", away=False), "the key is wrong"),
    ):
        away[:] = [last]
        with pytest.raises(Refused, match=f"its log begins at offset 1, and {why}") as refused:
            await ask(stand, starts=(1, 0))(0)
        assert "`kycache rebuild --shard 0 --epoch`" in refused.value.remedy
        assert await ask(stand)(0) is None


async def test_an_empty_store_is_asked_once_at_a_start(
    stand: Stand, away: list[Word], autojump_clock: Clock
) -> None:
    away[:] = [Nothing(0), Brought("id", "gen-000009")]
    fill = ask(stand)
    assert await fill(0) is None
    assert await fill(1) is None
    await trio.sleep(bootstrap.EMPTY_S + 1)
    assert await fill(1) == "gen-000009"
