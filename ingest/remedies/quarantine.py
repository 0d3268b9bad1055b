"""Taking records out of quarantine: replayed once they can be understood, or dropped by an operator's word."""

from collections.abc import Sequence

import lmdb
import trio

from kycache.actors.files.home import Home
from kycache.actors.files.quarantine import Quarantined
from kycache.actors.integrity.vouching import Checker
from kycache.actors.rules.reports import SUSPECT
from kycache.actors.rules.state import Identity
from kycache.actors.store.store import FORMAT, Settled, Store
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.decoding.decode import Record, RecordDecoder
from kycache.model.change import Item
from kycache.model.errors import Refused


def settle(
    settings: KafkaSettings,
    home: Home,
    shard: int,
    offsets: Sequence[int],
    *,
    drop: bool,
) -> list[Settled]:
    """Replay or drop records of a shard's quarantine. The caller holds the shard's lock. Blocking.

    Raises:
        Refused: the shard has no store, or its file is damaged.
    """
    directory, view = home.directory, home.view
    node, generation = directory.node(), directory.shard(shard).current()
    if node is None or generation is None:
        raise Refused(f"shard {shard} has no store", "start `kycache ingest`")
    if directory.shard(shard).building() is not None:
        raise Refused(
            f"shard {shard} is being built anew, and what it is built of may have a quarantine of its own",
            "run the command again when it is `ready`",
        )
    Checker(view).ensure(generation, shard)
    identity = Identity(FORMAT, shard, node.shards, view.hash)
    store = Store(home.environments, generation, view, identity, directory.add_doubts)
    decoder = RecordDecoder(view, settings.key_form, settings.heartbeat_table, store.times)

    def redecode(record: Quarantined) -> Item:
        return decoder.decode(Record(record.offset, record.timestamp_ms, record.kafka_key, record.kafka_value))

    try:
        while True:
            try:
                settled = store.settle(offsets, None if drop else redecode)
                break
            except lmdb.MapFullError:
                _grow_map(store)
        if not store.state().doubts:
            directory.clear_doubt(SUSPECT, shard)
    finally:
        store.close()
    return settled


def _grow_map(store: Store) -> None:
    """Where this process also reads, on the thread that does: none of its transactions is open meanwhile."""
    try:
        trio.from_thread.run_sync(store.grow_map)
    except RuntimeError:  # a command, without an event loop
        store.grow_map()
