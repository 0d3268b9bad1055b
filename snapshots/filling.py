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

from kycache.actors.files import DataDirectory
from kycache.model.errors import KycacheError, Refused, Unreachable, whereabouts

from .bootstrap import Brought, Failed, Job, Nothing, Skips, Takes, Word
from .keys import Keys, keys_of
from .listing import Condition, survey
from .manifest import MANIFEST, Manifest
from .plan import PassedOver, candidates
from .restore import bring_back
from .stores import Store


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
    manifests: list[Manifest] = []
    for found in reversed(survey(store, keys)):
        if found.condition is Condition.DAMAGED:
            yield Skips(found.id, found.reason)
        elif found.manifest is not None:
            manifests.append(found.manifest)
    directory = DataDirectory(Path(job.root))
    for candidate in candidates(manifests, job.topic, job.home, job.shard):
        if isinstance(candidate, PassedOver):
            yield Skips(candidate.snapshot, candidate.reason)
            continue
        manifest, (entry, behind) = candidate
        yield Takes(manifest.id, manifest.created_at, entry.raw_bytes, behind)
        made: list[Path] = []
        try:
            bring_back(store, keys, manifest, entry, directory, job.view, made.append)
        except Refused as error:  # damaged in the store: an older one may be good
            yield Skips(manifest.id, error.problem)
            continue
        yield Brought(manifest.id, made[0].name)
        return
    yield Nothing(len(manifests))


def _read(kind: type, value: Any) -> Any:
    return kind(value)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    """The child: a job in, words out."""
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
