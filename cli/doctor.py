"""`kycache doctor`: whether broker, source and connector are as the view's promises need them."""

import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

import lmdb
import typer

from kycache.actors.directory import DataDirectory
from kycache.actors.state import ShardState
from kycache.model.connector import connector_config
from kycache.model.errors import KycacheError, Refused, Unreachable
from kycache.model.view import View

from .composition import (
    connector_settings,
    data_directory,
    environments,
    kafka_connect,
    kafka_settings,
    partitions_of,
    router,
    source_dsn,
)
from .findings import WARNING, Finding, judge_connector, judge_disk, judge_log, judge_topic
from .invocation import JsonOption, invocation
from .settings import Settings
from .source_findings import judge_history, judge_source


class Look(StrEnum):
    """What can be looked at."""

    TOPIC = "topic"
    SOURCE = "source"
    LOG = "log"
    CONNECTOR = "connector"
    DISK = "disk"


@dataclass
class Diagnosis:
    """What was found, what was sound, and what was not looked at."""

    findings: list[Finding] = field(default_factory=list)
    sound: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    unreachable: bool = False

    def look(self, what: str, examine: Callable[[], Iterator[Finding]]) -> None:
        """Examine one thing; that it does not answer is a finding too."""
        try:
            found = list(examine())
        except KycacheError as error:
            self.unreachable = self.unreachable or isinstance(error, Unreachable)
            found = [Finding(what, error.problem, error.remedy)]
        self.findings += found
        if not found:
            self.sound.append(what)

    @property
    def exit_code(self) -> int:
        """0 where all is sound, or there are warnings only."""
        if self.unreachable:
            return Unreachable.exit_code
        return 0 if self.sound_enough else Refused.exit_code

    @property
    def sound_enough(self) -> bool:
        """No finding is an error."""
        return all(finding.severity == WARNING for finding in self.findings)


def doctor(context: typer.Context, as_json: JsonOption = False) -> None:
    """Check broker, topic, source and connector against what the view needs. Changes nothing."""
    diagnosis = diagnose(invocation(context).settings())
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "sound": diagnosis.sound_enough,
                    "findings": [finding._asdict() for finding in diagnosis.findings],
                    "unchecked": diagnosis.unchecked,
                }
            )
        )
    else:
        for finding in diagnosis.findings:
            mild = "warning: " if finding.severity == WARNING else ""
            typer.echo(f"{mild}{finding.check}: {finding.problem}\n  next: {finding.remedy}")
        if not diagnosis.findings:
            typer.echo("; ".join([f"sound: {', '.join(diagnosis.sound)}", *diagnosis.unchecked]))
    raise typer.Exit(diagnosis.exit_code)


def diagnose(settings: Settings, only: Collection[Look] = tuple(Look)) -> Diagnosis:
    """Look at everything that is configured, or at some of it.

    Raises:
        ConfigurationError: the view definition is wrong.
        Refused: the data directory was made by another kycache or for another view.
    """
    # Here, as the clients of Kafka and PostgreSQL take their time to import.
    from .examination import look_at_connector, look_at_source
    from .topic_examination import SAMPLE_RECORDS, look_at_log, look_at_topic

    diagnosis = Diagnosis()
    view = settings.load_view()
    directory = data_directory(settings)
    home = directory.node()
    if home is not None:
        directory.check_view(home, view.hash)
    kafka = kafka_settings(settings)
    # Until the broker says otherwise.
    partitions = partitions_of(settings, directory, None)
    there, heartbeat = True, True
    dsn, connect = source_dsn(settings), kafka_connect(settings)

    def topic() -> Iterator[Finding]:
        nonlocal partitions, there
        there = False  # also where it does not answer: then its log is not asked for
        facts = look_at_topic(kafka, view, connector_settings(settings, partitions), home, directory.place())
        partitions, there = facts.partitions or partitions, facts.partitions > 0
        yield from judge_topic(facts, kafka.topic, home, snapshots=settings.snapshots.store is not None)

    def source() -> Iterator[Finding]:
        nonlocal heartbeat
        assert dsn is not None
        read = max((state.watermark for state in _states(settings, directory, view).values()), default=0)
        facts = look_at_source(dsn, view, expected)
        heartbeat = facts.heartbeat_rows is not None
        wal_max = settings.connector.slot_wal_max_mib << 20
        yield from judge_source(facts, view, expected, kafka.key_form, partitions, wal_max)
        yield from judge_history(facts, read)

    def log() -> Iterator[Finding]:
        facts = look_at_log(kafka, view, partitions)
        needed = {n: state.position.offset for n, state in _states(settings, directory, view).items()}
        now_ms = int(time.time() * 1000)
        yield from judge_log(facts, needed, now_ms, SAMPLE_RECORDS, heartbeat=heartbeat)

    def connector() -> Iterator[Finding]:
        assert connect is not None
        facts = look_at_connector(connect)
        yield from judge_connector(facts, expected.name, connector_config(view, expected))

    def disk() -> Iterator[Finding]:
        yield from judge_disk(shutil.disk_usage(directory.root).free, directory.root)

    if Look.TOPIC in only:
        diagnosis.look("topic", topic)
    expected = connector_settings(settings, partitions)
    if dsn is None:
        diagnosis.unchecked.append("the source was not looked at: `[source] dsn` is not set")
    elif Look.SOURCE in only:
        diagnosis.look("source", source)
    if there and Look.LOG in only:
        diagnosis.look("log", log)
    if connect is None:
        diagnosis.unchecked.append("the connector was not looked at: `[connect] url` is not set")
    elif Look.CONNECTOR in only:
        diagnosis.look("connector", connector)
    if home is not None and Look.DISK in only:
        diagnosis.look("disk", disk)
    return diagnosis


def _states(settings: Settings, directory: DataDirectory, view: View) -> dict[int, ShardState]:
    """How far each shard is; nothing of a shard that cannot be read: `status` says why."""
    reads = router(settings, directory, environments(settings, readonly=True), view)
    found = {}
    try:
        for shard in range(reads.shard_count or 0):
            with suppress(KycacheError, lmdb.Error):
                state = reads.state(shard)
                if state is not None:
                    found[shard] = state
    finally:
        reads.close()
    return found
