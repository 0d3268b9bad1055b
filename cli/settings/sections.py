"""The settings, section by section: names, types, defaults and bounds. `loading.py` reads them.

Every field has a description: docs/settings.md carries the same words, and a test holds the two together.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from kycache.actors.files.open_reads import GROWTH_SHARE
from kycache.model.connector import MESSAGE_BYTES_MAX
from kycache.model.partition import KeyForm
from kycache.model.scalars.times import TimePrecision
from kycache.model.signing import KEY_CHARACTERS_MIN
from kycache.model.view import HEARTBEAT_TABLE

from .durations import LONGEST_S, seconds

REDACTED = "********"

MAP_SIZE_GIB_MAX = 4096.0
"""Address space for one shard. A process maps all its shards, and x86-64 offers 128 TiB: 32 such shards."""

WORKERS_MAX = 256
"""More processes than any machine has cores is a slip of the keyboard."""

PARTITIONS_MAX = 10_000
"""Each partition is a folder, an LMDB map and a heartbeat row; more is a misunderstanding."""

FRESHNESS_WAIT_S_MAX = 60.0
"""A request that may wait longer than a client's own time limit waits for nobody."""

LIST_TTL_S_MAX = 60.0
"""The list is promised to be seconds old, not minutes."""

BODY_CACHE_MIB_MAX = 1 << 16
"""64 GiB: more than the memory of machines that serve this."""

EXPORTS_MAX = 100
"""With so many, another request may wait for the half second that any request is promised."""

GRACE_S_MAX = 600.0
"""Process managers kill long before."""

SNAPSHOTS_EVERY_S_MIN = 60.0
"""Snapshots that follow one another without a pause are a load, not a safety."""


class Section(BaseModel):
    """A table of the file. Unknown keys are errors: a misspelt setting must not be silently the default."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _split(value: object) -> object:
    """A list may be written `a,b` where only text can stand: in an environment variable."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _duration(value: object) -> object:
    """Seconds, or how long that is in the words of people: `6h`."""
    return seconds(value) if isinstance(value, str) else value


def _connection_string(value: SecretStr) -> SecretStr:
    from psycopg import ProgrammingError  # here and below: only where a dsn is set is it imported

    try:
        parts_of(value)
    except ProgrammingError:  # its text may hold the password
        raise ValueError("not a PostgreSQL connection string") from None
    return value


Dsn = Annotated[SecretStr, AfterValidator(_connection_string)]


def parts_of(dsn: SecretStr) -> dict[str, Any]:
    """What a connection string says, by libpq's names."""
    from psycopg.conninfo import conninfo_to_dict

    return conninfo_to_dict(dsn.get_secret_value())


def without_password(dsn: SecretStr) -> str:
    """A connection string that may be shown."""
    from psycopg.conninfo import make_conninfo

    parts = parts_of(dsn)
    parts.update({key: REDACTED for key in ("password", "sslpassword") if key in parts})
    return make_conninfo("", **parts)


def _long_enough(key: SecretStr) -> SecretStr:
    if len(key.get_secret_value()) < KEY_CHARACTERS_MIN:
        raise ValueError(
            f"a key has at least {KEY_CHARACTERS_MIN} characters: make one with `openssl rand -hex 32`"
        )
    return key


Key = Annotated[SecretStr, AfterValidator(_long_enough)]


class Data(Section):
    """Where the view is kept."""

    dir: Path = Field(default=Path("data"), description="The data directory, shared by ingest and web.")
    map_size_gib: float = Field(
        default=64.0,
        ge=0.01,
        le=MAP_SIZE_GIB_MAX,
        description="Address space reserved per shard, GiB. Not disk: a shard's file grows as it is written.",
    )
    durability: Literal["normal", "strict"] = Field(
        default="normal",
        description="`normal`: power loss may undo the last batches, which are then read again. "
        "`strict` waits for every commit's last page too. Neither can tear a file.",
    )


class ViewSection(Section):
    """What the profiles are made of."""

    file: Path | None = Field(default=None, description="The view definition (TOML). Unset: the packaged one.")


class Kafka(Section):
    """Where the changes come from."""

    bootstrap: str = Field(
        default="localhost:9092", min_length=1, description="Brokers, `host:port`, comma-separated."
    )
    topic: str = Field(default="kyc.changes", min_length=1, description="The one topic that carries every table.")
    group: str = Field(default="kycache", min_length=1, description="The consumer group that divides the shards.")
    key: KeyForm = Field(
        default=KeyForm.PLAIN,
        description="How the connector writes the user id into the key: `plain`, `quoted`, `json`.",
    )
    time_precision_mode: TimePrecision | None = Field(
        default=None,
        description="Debezium's `time.precision.mode` in the topic: `microseconds`, `adaptive`. "
        "Unset: that of the data directory, and `microseconds` for a new one.",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How to speak to the brokers."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        default=None, description="How to log in to the brokers, with a `SASL_…` protocol."
    )
    sasl_username: str | None = Field(default=None, description="Who logs in.")
    sasl_password: SecretStr | None = Field(default=None, description="With which password.")
    ssl_cafile: Path | None = Field(
        default=None, description="Certificates that sign the brokers'. Unset: the system's."
    )
    ssl_certfile: Path | None = Field(
        default=None, description="The client's own certificate, where brokers ask for one."
    )
    ssl_keyfile: Path | None = Field(default=None, description="The key of that certificate.")
    ssl_password: SecretStr | None = Field(default=None, description="The password of that key.")

    @field_validator("bootstrap")
    @classmethod
    def _is_addresses(cls, value: str) -> str:
        for address in value.split(","):
            host, _, port = address.strip().rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError(f"{address.strip()!r} is not `host:port`")
        return value

    @model_validator(mode="after")
    def _is_a_whole_login(self) -> "Kafka":
        login = (self.sasl_mechanism, self.sasl_username, self.sasl_password)
        if self.security_protocol.startswith("SASL_") and None in login:
            raise ValueError("a SASL_… security_protocol needs sasl_mechanism, sasl_username and sasl_password")
        if not self.security_protocol.startswith("SASL_") and login != (None, None, None):
            raise ValueError("sasl_… settings need security_protocol SASL_SSL or SASL_PLAINTEXT")
        return self


class Source(Section):
    """The system of record. kycache runs without it."""

    dsn: Dsn | None = Field(
        default=None, description="PostgreSQL connection string. `doctor`, `connector` and `ingest` look there."
    )


class Connector(Section):
    """Names of the Debezium connector, as `kycache connector` prints and `kycache doctor` expects them."""

    name: str = Field(default="kycache", min_length=1, description="The connector's name in Kafka Connect.")
    topic_prefix: str = Field(default="kyc", min_length=1, description="Debezium's `topic.prefix`.")
    slot: str = Field(default="kycache", pattern=r"^[a-z0-9_]{1,63}$", description="The replication slot.")
    publication: str = Field(default="kycache", min_length=1, description="The publication.")
    heartbeat_table: str = Field(
        default=HEARTBEAT_TABLE,
        pattern=r"^[a-z_][a-z0-9_]{0,52}$",
        description="The table, in the same schema, whose rows Debezium's heartbeat writes. Views beside each "
        "other have one each: names of trigger and function follow from it.",
    )
    message_max_mib: int = Field(
        default=MESSAGE_BYTES_MAX >> 20,
        ge=1,
        le=MESSAGE_BYTES_MAX >> 20,
        description="MiB that one change may take as it is sent, the row before and after it. The producer and a "
        "topic that Connect makes take so much; brokers must (`socket.request.max.bytes`).",
    )
    producer_override: bool = Field(
        default=True,
        description="The connector itself carries that limit (`producer.override.…`). false, for a Kafka Connect "
        "that refuses it: its worker needs `producer.max.request.size`.",
    )
    slot_wal_max_mib: int = Field(
        default=1024,
        ge=1,
        description="WAL, MiB, that the slot may retain before `doctor` warns; half of the source's "
        "`max_slot_wal_keep_size` where that is less.",
    )
    schema_: str = Field(
        default="public", alias="schema", min_length=1, description="The schema of the view's tables."
    )
    partitions: int = Field(
        default=4,
        ge=1,
        le=PARTITIONS_MAX,
        description="Partitions of a topic that Connect makes. Fixed for the life of a view.",
    )
    dsn: Dsn | None = Field(
        default=None, description="The source as Debezium reaches it, where that differs from `[source] dsn`."
    )


class Connect(Section):
    """Kafka Connect, which runs the connector."""

    url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Its REST interface. With it, `doctor` looks at the connector.",
    )
    username: str | None = Field(
        default=None, min_length=1, description="Who logs in (HTTP Basic), where it wants a login."
    )
    password: SecretStr | None = Field(default=None, description="With which password.")

    @field_validator("url")
    @classmethod
    def _holds_no_login(cls, value: str | None) -> str | None:
        if value is not None and "@" in value:  # errors show the URL
            raise ValueError("a login stands in username and password, not in the URL")
        return value

    @model_validator(mode="after")
    def _is_a_whole_login(self) -> "Connect":
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password are needed both, or neither")
        return self


class Ingest(Section):
    """How changes are applied."""

    poison: Literal["quarantine", "halt"] = Field(
        default="quarantine",
        description="What a change that cannot be decoded does: is set aside, or stops its shard.",
    )


class Http(Section):
    """How answers are given."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="The address to listen on. Others than loopback must be allowed.",
    )
    port: int = Field(default=8080, ge=0, le=65535, description="The port; 0 takes a free one.")
    workers: int = Field(default=1, ge=1, le=WORKERS_MAX, description="Processes that share the port.")
    freshness_wait: float = Field(
        default=3.0,
        ge=0,
        le=FRESHNESS_WAIT_S_MAX,
        description="Seconds to wait for the freshness a request asks for.",
    )
    list_ttl: float = Field(
        default=1.0,
        ge=0,
        le=LIST_TTL_S_MAX,
        description="Seconds for which a page of the list is answered again to requests that demand no freshness. "
        "0: each is read.",
    )
    body_cache_mib: int = Field(
        default=64,
        ge=0,
        le=BODY_CACHE_MIB_MAX,
        description="MiB that each process may keep of details it rendered. A kept body is answered while the "
        "stored profile is what it was rendered from, so it is never stale. 0: each is rendered.",
    )
    fast_lane: bool = Field(
        default=True,
        description="Plain HTTP/1.1 requests of the two reads are answered without Hypercorn and Quart, "
        "byte for byte alike.",
    )
    exports: int = Field(
        default=4,
        ge=0,
        le=EXPORTS_MAX,
        description="Exports (`GET /users/export`) that run at once in each process; one more gets 503. "
        "Each makes every other request wait for up to 5 ms more.",
    )
    drain: float = Field(
        default=0.5,
        ge=0,
        le=GRACE_S_MAX,
        description="Seconds that `/readyz` says 503 before an ending process takes no more connections. "
        "Behind a load balancer: its check interval.",
    )
    grace: float = Field(
        default=10.0,
        ge=0,
        le=GRACE_S_MAX,
        description="Seconds that answers in flight have when the process must end.",
    )
    cursor_keys: Annotated[tuple[Key, ...], BeforeValidator(_split)] = Field(
        default=(),
        description="Keys that sign cursors: the first one signs, all are believed. "
        "Unset: one is made in the data directory. Nodes behind one address must share them.",
    )
    allow_unauthenticated: bool = Field(
        default=False,
        description="Listen beyond loopback although everyone who reaches the port may read everything.",
    )
    stale_after: float = Field(
        default=10.0,
        gt=0,
        description="Seconds behind the source's last commit after which a shard is called stale.",
    )


def _no_identities(values: tuple[str, ...]) -> tuple[str, ...]:
    """Recipients are shown, in what is printed and in errors: the other half of the pair must not get there."""
    if any(value.upper().startswith(("AGE-SECRET-KEY-", "-----BEGIN")) for value in values):
        raise ValueError(
            "an identity stands there, which is secret: write its recipient (`age-keygen -y`), and name the "
            "identity's file in `[snapshots] identity`"
        )
    return values


class Snapshots(Section):
    """Copies of shard files: where they are kept, who may read them, and what taking one may cost."""

    store: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9]+://",
        description="The store's URL: `file:///folder`, `s3://bucket/prefix`, `gs://…`, `az://…`. "
        "What a bucket needs beside it stands in its own variables (`AWS_REGION`, `AWS_ACCESS_KEY_ID`, …).",
    )
    key: Key | None = Field(
        default=None,
        description="Authenticates manifests: random (`openssl rand -hex 32`), at least 32 characters, the same "
        "on every node. Unset: a folder keeps one of its own (`store.key`); a bucket is refused.",
    )
    recipients: Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_no_identities)] = Field(
        default=(), description="age recipients (`age1…`, or SSH public keys) that the files are encrypted for."
    )
    identity: Path | None = Field(
        default=None, description="The file with the age identity that reads them: for reading a snapshot back."
    )
    allow_unencrypted: bool = Field(
        default=False,
        description="Write to a bucket although there are no recipients: whoever reads it reads all.",
    )
    every: Annotated[float | None, BeforeValidator(_duration)] = Field(
        default=None,
        ge=SNAPSHOTS_EVERY_S_MIN,
        le=LONGEST_S,
        description="How often `ingest` takes a snapshot by itself: `6h`, `1d`. Unset: never.",
    )
    keep: int | None = Field(
        default=None, ge=1, description="How many of them are kept of each shard. Unset: all, until `prune`."
    )
    bootstrap: bool = Field(
        default=True,
        description="A shard that has no file yet comes back from the newest snapshot in `store` that will do, "
        "and reads on from there. false: always from the start of the log.",
    )
    level: int = Field(default=1, ge=1, le=19, description="How hard zstd compresses: 1 keeps up with a disk.")
    rate: float = Field(
        default=0.0, ge=0, description="MiB per second that are read from a shard's file at most; 0: no limit."
    )
    growth: float = Field(
        default=0.4,
        gt=0,
        lt=GROWTH_SHARE,
        description="How much of its size a shard's file may grow while it is copied, before that is given up. "
        "What is being copied cannot be used again; from 0.5 on ingest would wait for the copy.",
    )
    time_limit: Annotated[float, BeforeValidator(_duration)] = Field(
        default=3600.0, gt=0, description="Seconds that the copy of one shard may take."
    )
    part_mib: int = Field(
        default=16,
        ge=5,
        le=1024,
        description="MiB of a part of an upload. S3 takes 10,000 of a file: 160 GB with the default.",
    )
