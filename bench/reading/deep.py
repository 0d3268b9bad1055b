"""A far page beside the first one, of a million users, without kept pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shards import Shards

from kycache.demo.population.people import Person, people

from .figures import DEEP_RATE, Deep
from .load import Requests, latency, write_for_vegeta
from .sides import LANES, LOAD_CORE, Sides, on_core
from .world import beating

USERS = 1_000_000
PAGES = (1, 10_000)
SHARDS = 4


def deep_pages(folder: Path, rounds: int, seconds: float) -> Iterator[Deep]:
    """Pages in turn, some rounds. The users have no KYC records and accounts, which a list does not read."""
    everyone = (Person(person.user, (), ()) for person in people(USERS))
    shards = Shards(folder / "data", SHARDS, everyone)
    try:
        with on_core(LOAD_CORE), Sides(folder, folder / "data") as sides, beating(shards):
            side = sides.kycache(LANES[0], {"list_ttl": 0})
            files = {page: folder / f"page-{page}.vegeta" for page in PAGES}
            for page, file in files.items():
                write_for_vegeta(file, Requests([f"/users?page={page}"], [0]), side.url, seconds, DEEP_RATE)
                latency(side, file, 1.0, DEEP_RATE)
            for number in range(rounds):
                for page in PAGES:
                    found = latency(side, files[page], seconds, DEEP_RATE)
                    yield Deep(USERS, page, number, found.p50_ms, found.p99_ms)
    finally:
        shards.close()
