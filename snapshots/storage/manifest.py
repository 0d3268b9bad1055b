"""A snapshot's manifest: which shards it holds, as of when, and the hashes of their files. Pure.

The manifest is JSON. Its last member is a MAC of every byte before it (HMAC-SHA-256), and what follows the MAC is
fixed, so that no byte of the file can change unnoticed: not by a disk, and not by someone who can write to the
store but does not have the key. The same holds for the note that is kept of each finished shard while the others
are still being copied.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

import msgspec

from kycache.actors.rules.freshness import concerns
from kycache.actors.rules.reports import CUT_OFF, Doubt
from kycache.actors.rules.state import Identity, Position, ShardState
from kycache.model.errors import Refused
from kycache.model.lsn import format_lsn, parse_lsn
from kycache.model.scalars.times import TimePrecision

FORMAT = 2
"""Of a snapshot; an unknown one is refused. 2 says what put its shards in doubt: who does not know to ask must not
read it. 1 did not say so, and is read as if nothing had."""

FORMATS = (1, 2)
"""Those that are read."""

MANIFEST = "manifest.json"
"""Written last: a snapshot without it is not one."""

RUN_FILE = "run.json"
"""Written first: whose run it is, and that it is not finished (`runs.py`)."""

MANIFEST_BYTES_MAX = 64 << 20
"""10,000 shards at less than 1 KB each, with room."""

_ID = re.compile(r"\d{8}T\d{6}\.\d{3}Z-[0-9a-f]{8}")
_NOTE = re.compile(r"shard-\d{4,}\.json")
_SEALED = re.compile(rb'(.*),\n  "mac": "([0-9a-f]{64})"\n\}\n', re.DOTALL)

_T = TypeVar("_T")


class ReadFrom(msgspec.Struct, frozen=True, rename="camel"):
    """The Kafka coordinates of the next change that the shard's file does not hold."""

    topic: str
    topic_id: str
    partition: int
    offset: int
    leader_epoch: int = -1

    @classmethod
    def of(cls, position: Position) -> "ReadFrom":
        """The same, as the store says it."""
        return cls(**msgspec.structs.asdict(position))


class CopiedFile(NamedTuple):
    """A shard's file in the store."""

    file: str
    encrypted: bool
    raw_bytes: int
    raw_sha256: str
    stored_bytes: int
    stored_sha256: str


class ShardEntry(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One shard's file, and what is in it."""

    shard: int
    file: str
    """Its name beside the manifest."""
    copied_at: str
    encrypted: bool
    raw_bytes: int
    """Of the LMDB file."""
    raw_sha256: str
    stored_bytes: int
    """Of the file in the store: compressed, and encrypted where `encrypted` says so."""
    stored_sha256: str
    epoch: int
    bootstrapped: bool
    users: int
    quarantined: int
    suspect: int
    position: ReadFrom
    watermark: str
    """As Postgres prints it; `0/0` before the first streamed change."""
    as_of_ms: int
    """The source's clock at the last commit applied; 0 where it is not known."""
    times: TimePrecision = TimePrecision.ADAPTIVE
    """The unit of times in the log that it reads on in; snapshots of before the choice do not say it."""
    doubts: tuple[Doubt, ...] = ()
    """What puts the shard in doubt that its own file does not say, but its data directory when it was copied."""

    @property
    def watermark_lsn(self) -> int:
        """The watermark as a number."""
        return parse_lsn(self.watermark) or 0


class Manifest(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A whole snapshot of some or all shards of a view."""

    format: int
    id: str
    tool: str
    """Which kycache wrote it."""
    created_at: str
    node: str
    """The id of the data directory that it was taken from."""
    view: str
    """The view definition's hash."""
    shard_count: int
    """Of the view: not all of them must be in here."""
    shards: tuple[ShardEntry, ...]

    @property
    def lacking(self) -> list[int]:
        """The view's shards that it does not hold: on other nodes, or not to be copied when it was taken."""
        held = {entry.shard for entry in self.shards}
        return [shard for shard in range(self.shard_count) if shard not in held]

    def entry(self, shard: int) -> ShardEntry:
        """What is known about a shard's file.

        Raises:
            Refused: the snapshot does not hold that shard.
        """
        for entry in self.shards:
            if entry.shard == shard:
                return entry
        raise Refused(f"snapshot {self.id} does not hold shard {shard}", "run `kycache snapshot list`")


class Note(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A shard that is finished, of a snapshot that is not (`runs.py`): what the manifest will say of it."""

    format: int
    id: str
    node: str
    """Of which data directory, and of which copy of it (`DataDirectory.place`)."""
    view: str
    shard_count: int
    recipients: str
    """A digest of those who can read the file: others make a snapshot of their own."""
    at: str
    """When it began."""
    entry: ShardEntry | None
    """None: only that the run began."""


def new_id(now: datetime) -> str:
    """A name that sorts by time, and is nobody else's."""
    at = now.astimezone(UTC)
    return f"{at:%Y%m%dT%H%M%S}.{at.microsecond // 1000:03d}Z-{secrets.token_hex(4)}"


def is_id(name: str) -> bool:
    """The name is a snapshot's."""
    return _ID.fullmatch(name) is not None


def instant(now: datetime) -> str:
    """A time as manifests say it."""
    return now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shard_file(shard: int, *, encrypted: bool) -> str:
    """The name of a shard's file."""
    return f"shard-{shard:04d}.mdb.zst" + (".age" if encrypted else "")


def note_file(shard: int) -> str:
    """The name of a finished shard's note."""
    return f"shard-{shard:04d}.json"


def is_note(name: str) -> bool:
    """The name is a note's."""
    return _NOTE.fullmatch(name) is not None


def entry_of(
    identity: Identity, state: ShardState, doubts: Sequence[Doubt], copied_at: str, file: CopiedFile
) -> ShardEntry:
    """What a manifest says of a shard.

    Args:
        doubts: those of its data directory, read when the file's transaction had begun: a doubt is written down
            before what follows from it is committed.
    """
    return ShardEntry(
        shard=identity.shard,
        **file._asdict(),
        copied_at=copied_at,
        epoch=identity.epoch,
        times=identity.times,
        bootstrapped=state.bootstrapped,
        users=state.users,
        quarantined=state.quarantined,
        suspect=state.suspects,
        position=ReadFrom.of(state.position),
        watermark=format_lsn(state.watermark),
        as_of_ms=state.known_as_of_ms or 0,
        doubts=tuple(doubt for doubt in doubts if doubt.kind == CUT_OFF and concerns(doubt, state)),
    )


def sealed(what: Manifest | Note, key: bytes) -> bytes:
    """The file of a manifest or note."""
    body = msgspec.json.format(msgspec.json.encode(what), indent=2)[: -len(b"\n}")]
    return body + b',\n  "mac": "' + _mac(type(what), body, key).encode() + b'"\n}\n'


def unsealed(data: bytes, kind: type[_T], key: bytes, path: str) -> _T:
    """What a file says, once its MAC is found right.

    Args:
        path: the file, for messages.

    Raises:
        Refused: it was changed, cut, sealed with another key, or is of another format.
    """
    match = _SEALED.fullmatch(data)
    if match is None or not hmac.compare_digest(_mac(kind, match[1], key).encode(), match[2]):
        raise Refused(
            f"{path} is damaged, or was sealed with another key than `[snapshots] key`",
            "set the key it was made with; else take another snapshot of `kycache snapshot list`",
        )
    try:
        found = msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError:
        found = None
    number = getattr(found, "format", None)
    if found is None or number not in FORMATS:
        raise Refused(
            f"{path} is of a format that this kycache does not know",
            "use the kycache that wrote it, or a newer one",
        )
    return found


def opened_manifest(data: bytes, key: bytes, snapshot: str, url: str) -> Manifest:
    """The manifest of a snapshot, checked. Raises `Refused` as `unsealed` does, and where it is another's."""
    path = f"{MANIFEST} of snapshot {snapshot} in {url}"
    manifest = unsealed(data, Manifest, key, path)
    if manifest.id != snapshot:
        raise Refused(
            f"{path} is the manifest of {manifest.id}", "somebody moved it: take another snapshot of the list"
        )
    return manifest


def _mac(kind: type, body: bytes, key: bytes) -> str:
    return hmac.new(key, kind.__name__.encode() + b"\0" + body, hashlib.sha256).hexdigest()
