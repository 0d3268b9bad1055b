"""The demo's folder: whose it is, what is remembered in it, and what happens to it at the end."""

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from kycache.actors.files.directory import DataDirectory
from kycache.demo.servers.layout import Layout, Ports
from kycache.demo.servers.ports import claim, free_ports, http_port, is_free
from kycache.demo.servers.postgres import new_password
from kycache.demo.servers.stack import Kind
from kycache.model.errors import ConfigurationError, Refused
from kycache.model.scalars.times import TimePrecision

MEMORY = "demo.json"
LOCK = "demo.lock"
SHARDS_DEFAULT = 4
PORT_FREED_WITHIN_S = 15.0
"""How long the servers of a killed demo may still hold their ports: Kafka shuts down in a few seconds."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a folder remembers from its first start on; later starts use the same."""

    stack: str
    shards: int
    http: int
    ports: dict[str, int]
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder that is this demo's alone while it runs."""

    layout: Layout
    http: int
    resumed: bool


@contextmanager
def open_workspace(
    kind: Kind, directory: Path | None, shards: int | None, port: int | None
) -> Iterator[Workspace]:
    """The folder of a new demo, or of an earlier one that goes on; a temporary one is removed at the end.

    Raises:
        Refused: another demo runs in it, a port is taken, or what is in it does not go with what is asked.
        ConfigurationError: the folder cannot be used.
    """
    if directory is None:
        place = Path(tempfile.mkdtemp(prefix="kycache-demo-")).resolve()
        try:
            if os.geteuid() == 0:
                place.chmod(0o711)  # PostgreSQL runs as another account, which must pass
            yield _begin(kind, place, shards, port, durable=False)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return
    place = directory.expanduser().resolve()
    with _locked(place):
        memory = _remembered(place)
        if memory is None:
            yield _begin(kind, place, shards, port, durable=True)
        else:
            yield _go_on(kind, place, shards, port, memory)


def _begin(kind: Kind, place: Path, shards: int | None, port: int | None, durable: bool) -> Workspace:
    foreign = sorted(p.name for p in place.iterdir() if p.name != LOCK)
    if foreign:
        raise Refused(
            f"{place} is not empty and not a demo's folder (it holds {', '.join(foreign[:3])})",
            "give another --dir",
        )
    http = http_port(port)
    ports = Ports(*free_ports(len(Ports.__dataclass_fields__)))
    memory = Memory(kind, shards or SHARDS_DEFAULT, http, asdict(ports), new_password())
    path = place / MEMORY
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(memory), indent=2), encoding="utf-8")
    return Workspace(_layout(place, memory, durable), http, resumed=False)


def _go_on(kind: Kind, place: Path, shards: int | None, port: int | None, memory: Memory) -> Workspace:
    if memory.stack != kind:
        raise Refused(
            f"{place} holds a demo of the {memory.stack} stack, not {kind}",
            f"give --stack {memory.stack}, or another --dir",
        )
    if kind is Kind.EMBEDDED:
        raise Refused(
            f"{place} holds an earlier demo of the embedded stack, whose broker forgets everything when it ends: "
            "its topic would start above what the shards have read",
            "give another --dir (with --stack apache a later start goes on with it)",
        )
    if shards is not None and shards != memory.shards:
        raise Refused(
            f"{place} holds a demo with {memory.shards} shards, not {shards}, and the count is fixed",
            f"give --shards {memory.shards}, or another --dir",
        )
    _wait_freed([*memory.ports.values()])
    for name, number in memory.ports.items():
        claim(number, f"the demo's {name}, which it must have again", "stop that process")
    http = http_port(port or (memory.http if is_free(memory.http) else None))
    return Workspace(_layout(place, memory, durable=True), http, resumed=True)


def _layout(place: Path, memory: Memory, durable: bool) -> Layout:
    node = DataDirectory(place / "data").node()
    times = TimePrecision.MICROSECONDS if node is None else node.times  # an earlier kycache's goes on as it was
    return Layout(place, Ports(**memory.ports), memory.password, memory.shards, durable, times)


def _remembered(place: Path) -> Memory | None:
    path = place / MEMORY
    if not path.exists():
        return None
    try:
        return Memory(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{path} is not what a demo wrote: {error}", "give another --dir") from None


def _wait_freed(ports: list[int]) -> None:
    deadline = time.monotonic() + PORT_FREED_WITHIN_S
    while time.monotonic() < deadline and not all(is_free(port) for port in ports):
        time.sleep(0.1)


@contextmanager
def _locked(place: Path) -> Iterator[IO[str]]:
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = (place / LOCK).open("a")
    except OSError as error:
        raise ConfigurationError(f"{place} cannot be the demo's folder: {error}", "give another --dir") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another demo runs in {place}", "stop it, or give another --dir") from None
        yield lock
