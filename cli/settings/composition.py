"""What the settings mean for the other folders: each one's own settings object, made in one place."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import SecretStr

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.files.pid_claim import PidClaim
from kycache.actors.generations.hot_copy import CopyLimits
from kycache.actors.integrity.vouching import Checker
from kycache.actors.reader import Miss
from kycache.actors.router import Router
from kycache.actors.rules.freshness import Limits
from kycache.http.serving.settings import HttpSettings
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.model.connector import ConnectorSettings
from kycache.model.errors import ConfigurationError
from kycache.model.scalars.times import TimePrecision
from kycache.model.view import View
from kycache.snapshots.bootstrap import Bootstrap
from kycache.snapshots.plan import TopicFacts
from kycache.snapshots.schedule import Schedule
from kycache.snapshots.storage.settings import MIB, SnapshotSettings

from .debezium_source import tls_of, uncarried_by_debezium
from .kafka_connect import KafkaConnect, Login
from .loading import Settings, keys
from .sections import Section, parts_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from kycache.snapshots.storage.keys import Keys
    from kycache.snapshots.storage.stores import Store

    Made = TypeVar("Made", bound=DataclassInstance)

POSTGRES_PORT = 5432


def data_directory(settings: Settings) -> DataDirectory:
    """The data directory; it may not exist yet."""
    return DataDirectory(settings.data.dir)


def environments(settings: Settings, claim: PidClaim, *, readonly: bool) -> Environments:
    """The shard files of this process, which has a pid of its own (`own_pid`)."""
    return Environments(
        readonly=readonly,
        map_size=int(settings.data.map_size_gib * 2**30),
        metasync=settings.data.durability == "strict",
        claim=claim,
    )


def router(
    settings: Settings, directory: DataDirectory, opened: Environments, view: View, miss: Miss | None = None
) -> Router:
    """The reads of a data directory.

    Args:
        miss: what becomes of files nobody vouches for; by default, as fits a command, they are walked on the spot.
    """
    limits = Limits(stale_after_s=settings.http.stale_after)
    return Router(directory, opened, view, limits, settings.kafka.key, miss or Checker(view).ensure_unheld)


def kafka_settings(settings: Settings) -> KafkaSettings:
    """Where Kafka is, with kafka-python's names for how to log in."""
    kafka = settings.kafka
    security = {
        "security_protocol": kafka.security_protocol,
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": _revealed(kafka.sasl_password),
        "ssl_cafile": kafka.ssl_cafile and str(kafka.ssl_cafile),
        "ssl_certfile": kafka.ssl_certfile and str(kafka.ssl_certfile),
        "ssl_keyfile": kafka.ssl_keyfile and str(kafka.ssl_keyfile),
        "ssl_password": _revealed(kafka.ssl_password),
    }
    return _filled(
        KafkaSettings,
        kafka,
        bootstrap=kafka.bootstrap.replace(" ", ""),
        key_form=kafka.key,
        heartbeat_table=settings.connector.heartbeat_table,
        times=kafka.time_precision_mode,
        halt_on_poison=settings.ingest.poison == "halt",
        security={name: value for name, value in security.items() if value is not None},
    )


def http_settings(settings: Settings) -> HttpSettings:
    """How the server answers."""
    return _filled(HttpSettings, settings.http)


def snapshot_settings(settings: Settings, store: str | None = None) -> SnapshotSettings:
    """Where snapshots are kept, and how they are taken.

    Args:
        store: another store's URL than the configured one.

    Raises:
        ConfigurationError: none is named.
    """
    snapshots = settings.snapshots
    url = snapshots.store if store is None else store
    if url is None:
        raise ConfigurationError("there is no snapshot store", "set `[snapshots] store`, or give --store")
    part_bytes = snapshots.part_mib * MIB
    return _filled(SnapshotSettings, snapshots, store=url, copying=copy_limits(settings), part_bytes=part_bytes)


def copy_limits(settings: Settings) -> CopyLimits:
    """What copying a shard's file while it is written may cost, for whichever purpose."""
    return _filled(CopyLimits, settings.snapshots, rate_bytes_s=settings.snapshots.rate * MIB)


def snapshot_schedule(settings: Settings, file: Path | None) -> Schedule | None:
    """The snapshots that ingest takes by itself, None where it takes none.

    Args:
        file: the configuration file that these settings came from.

    Raises:
        ConfigurationError: there is no store to take them into.
    """
    snapshots = settings.snapshots
    if snapshots.every is None:
        return None
    snapshot_settings(settings)
    named = () if file is None else ("--config", str(file))
    command = (sys.executable, "-m", "kycache.cli.main", *named, "snapshot")
    return Schedule(snapshots.every, snapshots.keep, command)


def bootstrap(settings: Settings, view: View) -> Bootstrap | None:
    """Where shards without a file come from beside the log; None: from nowhere."""
    from kycache.ingest.consuming.topic import describe_topic  # Kafka's client takes its time to import

    if settings.snapshots.store is None or not settings.snapshots.bootstrap:
        return None

    def describe() -> TopicFacts:
        topic = describe_topic(kafka_settings(settings))
        return TopicFacts(topic.name, topic.id, topic.starts, topic.ends)

    return Bootstrap(snapshot_settings(settings), data_directory(settings), view, describe)


def source_dsn(settings: Settings) -> str | None:
    """The source's connection string, None where no source is configured."""
    return _revealed(settings.source.dsn)


def kafka_connect(settings: Settings) -> KafkaConnect | None:
    """The connector's Kafka Connect, None where none is configured."""
    connect = settings.connect
    if connect.url is None:
        return None
    password = _revealed(connect.password)
    login = None if connect.username is None or password is None else Login(connect.username, password)
    return KafkaConnect(connect.url, settings.connector.name, login)


def connector_settings(settings: Settings, partitions: int) -> ConnectorSettings:
    """How Debezium reaches the source and what things are called; without a dsn the place is left empty.

    Raises:
        ConfigurationError: the dsn names several servers.
    """
    dsn = settings.connector.dsn or settings.source.dsn
    database = parts_of(dsn) if dsn is not None else {}
    port = str(database.get("port") or POSTGRES_PORT)
    if not port.isdigit() or "," in str(database.get("host")):
        raise ConfigurationError(
            "Debezium reads from one server, and the dsn does not name one host and port",
            "set `[connector] dsn` to that server",
        )
    return _filled(
        ConnectorSettings,
        settings.connector,
        host=str(database.get("host") or ""),
        port=int(port),
        user=str(database.get("user") or ""),
        password=str(database.get("password") or ""),
        dbname=str(database.get("dbname") or database.get("user") or ""),
        topic=settings.kafka.topic,
        partitions=partitions,
        message_bytes_max=settings.connector.message_max_mib * MIB,
        tls=tls_of(database),
        uncarried=uncarried_by_debezium(database) if dsn is not None else (),
        key_form=settings.kafka.key,
        times=times_of(settings, data_directory(settings)),
    )


def times_of(settings: Settings, directory: DataDirectory) -> TimePrecision:
    """The unit of times that the connector is to write: as set, else as the data directory's log has it."""
    node = directory.node()
    known = None if node is None or node.topic != settings.kafka.topic else node.times
    return settings.kafka.time_precision_mode or known or TimePrecision.MICROSECONDS


def partitions_of(settings: Settings, directory: DataDirectory, asked: int | None) -> int:
    """How many partitions the topic has, or is to have: what a data directory was made for is final.

    Raises:
        ConfigurationError: another number was asked for.
    """
    node = directory.node()
    if node is None or node.topic != settings.kafka.topic:
        return asked or settings.connector.partitions
    if asked not in (None, node.shards):
        raise ConfigurationError(
            f"data directory {directory.root} was made for {node.shards} partitions, not {asked}",
            "leave --partitions out, or give another data directory",
        )
    return node.shards


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _filled(room: "type[Made]", section: Section, **given: Any) -> "Made":
    """A room's own settings object: each field from the setting of its name, without the unit of seconds.

    Args:
        given: fields that no setting fills as it is written.
    """
    written = {name: getattr(section, attribute) for name, attribute in keys(type(section)).items()}
    values = {
        name: _plain(written[name] if name in written else written[name.removesuffix("_s")])
        for name in (field.name for field in fields(room))
        if name not in given
    }
    return room(**values, **given)


def _plain(value: Any) -> Any:
    """A setting's value without the wrapping that keeps secrets out of what is printed."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def opened_store(
    settings: Settings, store: str | None, *, writing: bool = False
) -> "tuple[SnapshotSettings, Store, Keys]":
    """The store that the settings, or `--store`, name, with its keys."""
    # Imported here: obstore and age's library take their time.
    from kycache.snapshots.storage.keys import keys_of
    from kycache.snapshots.storage.stores import Store

    wanted = snapshot_settings(settings, store)
    opened = Store(wanted.store, part_bytes=wanted.part_bytes, writing=writing)
    return wanted, opened, keys_of(wanted, opened, writing=writing)
