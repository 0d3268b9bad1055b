"""What put a shard in doubt where it was copied puts it in doubt where it comes back."""

from pathlib import Path

import msgspec
import pytest

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.files.home import Home
from kycache.actors.router import Router
from kycache.actors.rules.freshness import Limits, freshness
from kycache.actors.rules.reports import Doubt
from kycache.actors.rules.standing import Standing
from kycache.ingest.remedies.bring import bring
from kycache.model.errors import Refused
from kycache.snapshots.plan import plan
from kycache.snapshots.restore import bring_back
from kycache.snapshots.storage import manifest as manifests
from kycache.snapshots.storage.manifest import Manifest, sealed, unsealed
from support.snapshot_stand import KEY, VIEW, Stand, facts_of, home_of


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    """A shard that met a truncate which no trigger carried, and wrote that down as ingest does."""
    stand = Stand.make(tmp_path, rounds=10)
    shard = stand.shards[0]
    stand.source.trigger = False
    stand.source.truncate("accounts")
    stand.source.beat()
    stand.follow(shard)
    shard.directory.add_doubts(tuple(shard.doubts))
    return stand


def brought_back(stand: Stand, manifest: Manifest, directory: DataDirectory) -> Router:
    position = manifest.entry(0).position
    directory.found(VIEW.hash, position.topic, position.topic_id, 1)
    environments = Environments(readonly=False, map_size=1 << 30)

    def use(generation: Path) -> None:
        # Before anyone may read it: a reader in between would be told that nothing is wrong.
        assert directory.doubts() == manifest.entry(0).doubts
        assert directory.shard(0).current() is None
        bring(Home(directory, environments, VIEW), 0, generation.name, replace=True)

    bring_back(stand.store(), stand.keys(), manifest, manifest.entry(0), directory, VIEW, use)
    return Router(directory, Environments(readonly=True, map_size=1 << 30), VIEW, Limits(stale_after_s=1e12))


def test_on_a_new_node_no_freshness_is_claimed(stand: Stand) -> None:
    manifest = stand.take()
    (doubt,) = manifest.entry(0).doubts
    assert (doubt.kind, doubt.shard) == ("stale", 0)
    reads = brought_back(stand, manifest, DataDirectory(stand.root / "new"))
    assert reads.shard_count == 1
    status = reads.status(0)
    assert status.standing is Standing.STALE
    assert doubt.reason in status.reason
    assert status.state is not None
    assert freshness([status.state], reads.doubts()).cut_off
    reads.close()
    stand.close()


def test_a_whole_snapshot_since_leaves_it_behind(stand: Stand) -> None:
    stand.source.snapshot()
    stand.go_on(1)
    manifest = stand.take()
    assert manifest.entry(0).doubts == ()
    reads = brought_back(stand, manifest, DataDirectory(stand.root / "new"))
    assert reads.shard_count == 1
    assert reads.status(0).standing is Standing.READY
    reads.close()
    stand.close()


def test_doubts_that_end_with_their_record_stay_where_they_are(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path, rounds=3)
    stand.shards[0].directory.add_doubts((Doubt("suspect", 0, 3, "a delete that names no user"),))
    assert stand.take().entry(0).doubts == ()
    stand.close()


def test_a_manifest_that_says_nothing_of_doubts_is_read(tmp_path: Path) -> None:
    """Of format 1; and one of a format to come is not."""
    stand = Stand.make(tmp_path, rounds=3)
    manifest = stand.take()
    stand.close()
    former = msgspec.structs.replace(manifest, format=1)
    data = sealed(former, KEY.encode())
    body = data[: data.rindex(b',\n  "mac"')].replace(b',\n      "doubts": []', b"")
    assert b"doubts" not in body
    mac = manifests._mac(Manifest, body, KEY.encode())
    read = unsealed(body + f',\n  "mac": "{mac}"\n}}\n'.encode(), Manifest, KEY.encode(), "path")
    assert read == former
    plan(read, facts_of(read), home_of(read), None)
    later = msgspec.structs.replace(manifest, format=manifests.FORMAT + 1)
    with pytest.raises(Refused, match="of a format that this kycache does not know"):
        unsealed(sealed(later, KEY.encode()), Manifest, KEY.encode(), "path")
