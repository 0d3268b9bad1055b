"""Taking records out of quarantine: replayed once they can be understood, or dropped by an operator's word."""

from collections.abc import Sequence

import lmdb
import trio

from kycache.actors.files.home import Home
from kycache.actors.files.quarantine import Quarantined
from kycache.actors.rules.reports import SUSPECT
from kycache.actors.store.store import Settled, Store
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.decoding.decode import Record, RecordDecoder
from kycache.model.change import Item

from .served_store import served_store


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
    with served_store(home, shard) as store:
        decoder = RecordDecoder(home.view, settings.key_form, settings.heartbeat_table, store.times)

        def redecode(record: Quarantined) -> Item:
            return decoder.decode(Record(record.offset, record.timestamp_ms, record.kafka_key, record.kafka_value))

        while True:
            try:
                settled = store.settle(offsets, None if drop else redecode)
                break
            except lmdb.MapFullError:
                _grow_map(store)
        if not store.state().doubts:
            home.directory.clear_doubt(SUSPECT, shard)
    return settled


def _grow_map(store: Store) -> None:
    """Where this process also reads, on the thread that does: none of its transactions is open meanwhile."""
    try:
        trio.from_thread.run_sync(store.grow_map)
    except RuntimeError:  # a command, without an event loop
        store.grow_map()
