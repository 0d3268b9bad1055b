"""Brings a shard without a file back from the newest snapshot that will do, as a program of its own.

`bootstrap.py` says why, starts it, and hears what it says: a job comes in as a line of JSON, words go out, one a
line. It ends when its standard input does, so that it outlives nobody; what it had begun then, the next start
of the shard removes.
"""

import os
import resource
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec

from kycache.actors.files.directory import DataDirectory
from kycache.model.errors import KycacheError, Refused, Unreachable, whereabouts
from kycache.snapshots.storage.keys import Keys, keys_of
from kycache.snapshots.storage.listing import Condition, newest_first
from kycache.snapshots.storage.manifest import MANIFEST
from kycache.snapshots.storage.settings import NICENESS
from kycache.snapshots.storage.stores import Store

from .bootstrap import Brought, Failed, Job, Nothing, Skips, Takes, Word
from .plan import AnotherUnit, passed_over, step_of
from .restore import bring_back


def fill(job: Job) -> Iterator[Word]:
    """Bring the shard back, and tell. Blocking. The last word is one of `Brought`, `Nothing`, `Failed`."""
    try:
        store = Store(job.settings.store, part_bytes=job.settings.part_bytes)
        # A store that nobody has written to yet has no key either, and needs none.
        if not any(file.path.endswith(f"/{MANIFEST}") for file in store.files()):
            yield Nothing(0)
            return
        yield from _fill(job, store, keys_of(job.settings, store, writing=False))
    except KycacheError as error:
        yield Failed(error.problem, error.remedy, away=isinstance(error, Unreachable))
    except OSError as error:
        problem = f"shard {job.shard}: it cannot be written below {job.root}: {error.strerror}"
        yield Failed(problem, "make room there", away=False)


def _fill(job: Job, store: Store, keys: Keys) -> Iterator[Word]:
    directory = DataDirectory(Path(job.root))
    seen, home = 0, job.home
    for found in newest_first(store, keys):
        if found.condition is Condition.UNFINISHED:
            continue
        seen += 1
        try:
            if found.condition is Condition.DAMAGED or found.manifest is None:
                raise Refused(found.reason)
            step = step_of(found.manifest, job.topic, home, job.shard)
            if step is None:
                home = passed_over(home, found.manifest, job.topic)
                continue
            yield Takes(found.id, found.manifest.created_at, step.entry.raw_bytes, step.behind)
            made: list[Path] = []
            bring_back(store, keys, found.manifest, step.entry, directory, job.view, made.append)
        except AnotherUnit as error:
            yield Failed(error.problem, error.remedy, away=False, final=True)
            return
        except Refused as error:  # an older one may do
            yield Skips(found.id, error.problem)
        else:
            yield Brought(found.id, made[0].name)
            return
    yield Nothing(seen)


def _read(kind: type, value: Any) -> Any:
    return kind(value)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    """The child: a job in, words out."""
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it holds personal data, and a bucket's credentials
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job, dec_hook=_read)
    Thread(target=_end_with_input, name="leash", daemon=True).start()
    say = partial(print, flush=True)
    try:
        for word in fill(job):
            say(msgspec.json.encode(word).decode())
    except Exception as error:  # a bug of ours: the log must still be read
        say(msgspec.json.encode(Failed(whereabouts(error), "see the log", away=False)).decode())


if __name__ == "__main__":
    main()
