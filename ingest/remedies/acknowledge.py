"""Trusting a shard again whose tables were altered at the source: an operator knows that no row changed."""

from kycache.actors.files.home import Home

from .served_store import served_store


def acknowledge(home: Home, shard: int) -> None:
    """Do so. The caller holds the shard's lock. Blocking; done twice it changes nothing more.

    Raises:
        Refused: the shard has no store, another one is built beside it, or its file is damaged.
    """
    with served_store(home, shard) as store:
        store.acknowledge()
