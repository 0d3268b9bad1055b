"""`kycache doctor`: whether broker, source and connector are as the view's promises need them."""

import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

import lmdb
import typer

from kycache.actors.files.pid_claim import PidClaim
from kycache.actors.rules.state import ShardState
from kycache.cli.settings.composition import (
    connector_settings,
    data_directory,
    environments,
    kafka_connect,
    kafka_settings,
    partitions_of,
    router,
    snapshot_settings,
    source_dsn,
    times_of,
)
from kycache.cli.settings.invocation import JsonOption, invocation
from kycache.cli.settings.loading import Settings
from kycache.cli.support.own_pid import own_pid
from kycache.model.connector import ConnectorSettings, connector_config
from kycache.model.errors import KycacheError, Refused, Unreachable
from kycache.model.view import Kind

from .connector_rules import judge_connector
from .shard_rules import judge_alterations
from .source_rules import judge_history, judge_source
from .topic_rules import WARNING, Finding, judge_disk, judge_log, judge_store, judge_topic


class Look(StrEnum):
    """What can be looked at."""

    TOPIC = "topic"
    SOURCE = "source"
    LOG = "log"
    SNAPSHOTS = "snapshots"
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
    settings = invocation(context).settings()
    diagnosis = diagnose(settings, claim=own_pid(context, data_directory(settings)))
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
        sound = [] if diagnosis.findings else [f"sound: {', '.join(diagnosis.sound)}"]
        if sound or diagnosis.unchecked:
            typer.echo("; ".join([*sound, *diagnosis.unchecked]))
    raise typer.Exit(diagnosis.exit_code)


def diagnose(
    settings: Settings, only: Collection[Look] = tuple(Look), *, claim: PidClaim | None = None
) -> Diagnosis:
    """Look at everything that is configured, or at some of it.

    Args:
        claim: to this process's pid; by default one that is held while shard files are open.

    Raises:
        ConfigurationError: the view definition is wrong.
        Refused: the data directory was made by another kycache.
    """
    diagnosis, examination = Diagnosis(), _Examination(settings, claim)
    if examination.home is not None:
        diagnosis.look("view", examination.look_at_view)
    if Look.TOPIC in only:
        diagnosis.look("topic", examination.look_at_topic)
    if examination.dsn is None:
        diagnosis.unchecked.append("the source was not looked at: `[source] dsn` is not set")
    elif Look.SOURCE in only:
        diagnosis.look("source", examination.look_at_source)
    if examination.has_topic and Look.LOG in only:
        diagnosis.look("log", examination.look_at_log)
    if examination.kept and Look.SNAPSHOTS in only:
        diagnosis.look("snapshots", examination.look_at_store)
    if examination.connect is None:
        diagnosis.unchecked.append("the connector was not looked at: `[connect] url` is not set")
    elif Look.CONNECTOR in only:
        diagnosis.look("connector", examination.look_at_connector)
    if examination.home is not None and Look.DISK in only:
        diagnosis.look("disk", examination.look_at_disk)
    return diagnosis


class _Examination:
    """Looks at one thing after another; what one look tells, later ones know."""

    def __init__(self, settings: Settings, claim: PidClaim | None) -> None:
        self.directory = data_directory(settings)
        self._claim = claim or PidClaim(self.directory.run)
        self.home = self.directory.node()
        self.dsn, self.connect = source_dsn(settings), kafka_connect(settings)
        self.has_topic = True
        """Until the broker says otherwise, or does not answer: then its log is not asked for."""
        self.kept = ""
        """Where the topic keeps no record for ever, and snapshots are all that this node could start over from."""
        self._settings = settings
        self._view = settings.load_view()
        self._asked = kafka_settings(settings).times
        self._kafka = replace(kafka_settings(settings), times=times_of(settings, self.directory))
        self._partitions = partitions_of(settings, self.directory, None)
        self._topic_id = "" if self.home is None else self.home.topic_id
        self._beats = True
        self._beaten_s: float | None = None

    def look_at_view(self) -> Iterator[Finding]:
        """Another view is no reason not to look: whether the source fits it is asked before a rebuild."""
        assert self.home is not None
        self.directory.check_view(self.home, self._view.hash)
        self.directory.check_times(self.home, self._asked)
        yield from judge_alterations(self._states())

    def look_at_topic(self) -> Iterator[Finding]:
        from .look_at_topic import look_at_topic  # here and below, as the clients take their time to import

        self.has_topic = False
        facts = look_at_topic(self._kafka, self._view, self._connector, self.home, self.directory.place())
        self.has_topic, self._topic_id = facts.partitions > 0, facts.id
        self._partitions = facts.partitions or self._partitions
        snapshots = self._settings.snapshots.store is not None
        self.kept = facts.kept if snapshots and self._is_ours else ""
        yield from judge_topic(
            facts,
            self._kafka.topic,
            self.home,
            snapshots=snapshots,
            sent_bytes_max=self._connector.message_bytes_max,
        )

    def look_at_source(self) -> Iterator[Finding]:
        from .look_at_source import look_at_source

        assert self.dsn is not None
        read = max((state.watermark for state in self._states()), default=0)
        facts = look_at_source(self.dsn, self._view, self._connector)
        self._beats = facts.heartbeat_rows is not None
        self._beaten_s = facts.beaten_s
        wal_max, key_form = self._settings.connector.slot_wal_max_mib << 20, self._kafka.key_form
        yield from judge_source(facts, self._view, self._connector, key_form, self._partitions, wal_max)
        yield from judge_history(facts, read)

    def look_at_log(self) -> Iterator[Finding]:
        from .look_at_topic import look_at_log

        places = [state.position for state in self._states()]
        needed = {place.partition: place.offset for place in places if place.topic_id == self._topic_id}
        facts = look_at_log(self._kafka, self._view, self._partitions)
        now_ms = int(time.time() * 1000)
        yield from judge_log(facts, needed, now_ms, heartbeat=self._beats, beaten_s=self._beaten_s)

    def look_at_store(self) -> Iterator[Finding]:
        from .look_at_snapshots import look_at_store

        lacking = look_at_store(self._settings, self._kafka, self.directory, self._view.hash)
        yield from judge_store(self.kept, lacking, snapshot_settings(self._settings).shown)

    def look_at_connector(self) -> Iterator[Finding]:
        from .look_at_source import look_at_connector

        assert self.connect is not None
        expected = self._connector
        facts = look_at_connector(self.connect)
        clock = any(column.type.kind is Kind.TIME for table in self._view.tables for column in table.columns)
        yield from judge_connector(
            facts, expected.name, connector_config(self._view, expected), times_of_day=clock
        )

    def look_at_disk(self) -> Iterator[Finding]:
        yield from judge_disk(shutil.disk_usage(self.directory.root).free, self.directory.root)

    @property
    def _connector(self) -> ConnectorSettings:
        return connector_settings(self._settings, self._partitions)

    @property
    def _is_ours(self) -> bool:
        """The data directory is there, and of this view."""
        return self.home is not None and self.home.view == self._view.hash

    def _states(self) -> list[ShardState]:
        """How far the shards are; nothing of one that cannot be read, or was read by another view: `status` says
        why."""
        if not self._is_ours:
            return []
        opened = environments(self._settings, self._claim, readonly=True)
        reads = router(self._settings, self.directory, opened, self._view)
        found = []
        try:
            for shard in range(reads.shard_count or 0):
                with suppress(KycacheError, lmdb.Error):
                    state = reads.state(shard)
                    if state is not None:
                        found.append(state)
        finally:
            reads.close()
        return found
