"""The store of a shard that serves, for a command that changes what is in it."""

from collections.abc import Iterator
from contextlib import contextmanager

from kycache.actors.files.home import Home
from kycache.actors.integrity.vouching import Checker
from kycache.actors.rules.state import Identity
from kycache.actors.store.store import FORMAT, Store
from kycache.model.errors import Refused


@contextmanager
def served_store(home: Home, shard: int) -> Iterator[Store]:
    """Open it and close it again. The caller holds the shard's lock. Blocking.

    Raises:
        Refused: the shard has no store, another one is built beside it, or its file is damaged.
    """
    directory = home.directory
    node, generation = directory.node(), directory.shard(shard).current()
    if node is None or generation is None:
        raise Refused(f"shard {shard} has no store", "start `kycache ingest`")
    if directory.shard(shard).building() is not None:
        raise Refused(
            f"shard {shard} is being rebuilt, and what it is built of may have a quarantine and doubts of its own",
            "run the command again when it is `ready`",
        )
    Checker(home.view).ensure(generation, shard)
    identity = Identity(FORMAT, shard, node.shards, home.view.hash)
    store = Store(home.environments, generation, home.view, identity, directory.add_doubts)
    try:
        yield store
    finally:
        store.close()
