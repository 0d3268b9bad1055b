"""`kycache doctor`: what is concluded from plain facts, and what it sees on a real source and broker."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from kycache.actors.files.directory import FORMAT, Node
from kycache.actors.rules.state import Alteration, Position, ShardState
from kycache.cli.doctor import look_at_source as examination
from kycache.cli.doctor import topic_rules as findings
from kycache.cli.doctor.connector_rules import ConnectorFacts, TaskFailure, judge_connector
from kycache.cli.doctor.failure_rules import Reason, reason_of
from kycache.cli.doctor.shard_rules import judge_alterations
from kycache.cli.doctor.source_facts import (
    HEARTBEAT_COLUMNS,
    ColumnFacts,
    PublicationFacts,
    PublishedFacts,
    SlotFacts,
    SourceFacts,
    TableFacts,
)
from kycache.cli.doctor.source_rules import judge_history, judge_source
from kycache.cli.doctor.topic_rules import WARNING, Finding, LogFacts, PartitionFacts, TopicFacts
from kycache.model.connector import ConnectorSettings, beat_keys, connector_config, truncate_body
from kycache.model.definition import default_view
from kycache.model.fingerprint import FINGERPRINT, scope_of
from kycache.model.partition import KeyForm
from kycache.model.scalars.times import TIME_PROBE, TimePrecision
from support.command_line import RunCommand
from support.pipeline.stack import Pipeline

VIEW = default_view()
CONNECTOR = ConnectorSettings(host="db", port=5432, user="app", password="x", dbname="app", partitions=4)
OPERATIONS = frozenset({"insert", "update", "delete", "truncate"})
WAL_MAX = 1 << 30
BEAT_COLUMNS = HEARTBEAT_COLUMNS | {FINGERPRINT, TIME_PROBE}


def sound_table(name: str) -> TableFacts:
    table = next(t for t in VIEW.tables if t.name == name)
    columns = {
        c.name: ColumnFacts(c.type.kind.value, c.type.labels, precision=c.type.precision, scale=c.type.scale)
        for c in table.columns
    }
    columns |= {table.owner: ColumnFacts("uuid"), "not_in_the_view": ColumnFacts("point")}
    body, key = truncate_body(VIEW, CONNECTOR), frozenset({table.key})
    return TableFacts("f", columns, truncate_trigger=body, unique=(key,))


TABLES = {
    **{t.name: PublishedFacts(frozenset(sound_table(t.name).columns)) for t in VIEW.tables},
    "kycache_heartbeat": PublishedFacts(frozenset({"user_id"})),
}

BEATS = {key: shard for shard, key in enumerate(beat_keys(4))}

SOUND = SourceFacts(
    wal_level="logical",
    in_recovery=False,
    tables={
        **{table.name: sound_table(table.name) for table in VIEW.tables},
        "kycache_heartbeat": TableFacts("d", dict.fromkeys(BEAT_COLUMNS, ColumnFacts("text"))),
    },
    publication=PublicationFacts(TABLES, OPERATIONS),
    heartbeat_rows=BEATS,
    slot=SlotFacts("pgoutput", "app", True, "reserved", 1 << 20, None),
    database="app",
)


def judge(source: SourceFacts, partitions: int = 4) -> list[Finding]:
    return list(judge_source(source, VIEW, CONNECTOR, KeyForm.PLAIN, partitions, WAL_MAX))


def test_a_fingerprint_that_nobody_writes_is_found() -> None:
    def found(**changes: object) -> str:
        problems = [f for f in judge(replace(SOUND, **changes)) if f.check == "fingerprint"]  # type: ignore[arg-type]
        return problems[0].problem if problems else ""

    assert not found(beaten_s=0.2, fingerprints=frozenset({f"{scope_of(VIEW)}-77"}))
    assert not found()  # no beat has come yet: that has findings of its own
    assert "no beat writes column fingerprint of table kycache_heartbeat" in found(beaten_s=0.2)
    assert "of other tables or columns than the view's" in found(fingerprints=frozenset({"00000000:1"}))
    without = TableFacts("d", dict.fromkeys(BEAT_COLUMNS - {FINGERPRINT}, ColumnFacts("text")))
    assert "has no column fingerprint" in found(tables={**SOUND.tables, "kycache_heartbeat": without})


def test_altered_shards_are_one_finding_with_the_remedies() -> None:
    def state(shard: int, altered: Alteration | None) -> ShardState:
        return ShardState(Position("t", "i", shard, 0), altered=altered)

    assert not list(judge_alterations([state(0, None)]))
    lacking = Alteration(7, 0x1000, "table users without phone")
    states = [state(2, lacking), state(0, Alteration(9, 0x2000)), state(1, None)]
    (finding,) = judge_alterations(states)
    assert finding.problem.startswith(
        "every answer of shard 0, 2 is suspect: rows come of table users without phone"
    )
    assert "`kycache rebuild --acknowledge`" in finding.remedy


def with_table(**changes: object) -> SourceFacts:
    """The sound source, with one thing about `accounts` otherwise."""
    return replace(SOUND, tables={**SOUND.tables, "accounts": replace(SOUND.tables["accounts"], **changes)})  # type: ignore[arg-type]


def test_sound_source() -> None:
    assert judge(SOUND) == []


@pytest.mark.parametrize(
    ("source", "check", "problem"),
    [
        (replace(SOUND, wal_level="replica"), "wal_level", "wal_level is replica"),
        (replace(SOUND, in_recovery=True), "source", "is a standby"),
        (with_table(identity="d"), "replica identity", "public.accounts has no REPLICA IDENTITY FULL"),
        (with_table(identity="n"), "replica identity", "public.accounts"),
        (
            with_table(identity="i", identity_columns=frozenset({"account_id"})),
            "replica identity",
            "public.accounts",
        ),
        (with_table(truncate_trigger=None), "truncate trigger", "public.accounts has no enabled trigger"),
        (
            with_table(columns={name: ColumnFacts("uuid") for name in ("account_id", "user_id")}),
            "tables",
            "has no column account_no, account_type, balance, opened_at, status",
        ),
        (
            with_table(columns={**sound_table("accounts").columns, "Status": ColumnFacts("text", generated="s")}),
            "tables",
            "public.accounts has columns that differ only by case (Status, status): Debezium refuses the table",
        ),
        (
            replace(SOUND, tables={k: v for k, v in SOUND.tables.items() if k != "accounts"}),
            "tables",
            "there is no table public.accounts",
        ),
        (replace(SOUND, publication=None), "publication", "publication 'kycache' does not exist"),
        (
            replace(
                SOUND, publication=PublicationFacts({k: TABLES[k] for k in ("users", "kyc_records")}, OPERATIONS)
            ),
            "publication",
            "does not cover accounts, kycache_heartbeat",
        ),
        (
            replace(SOUND, publication=PublicationFacts(TABLES, OPERATIONS - {"truncate"})),
            "publication",
            "does not publish truncate",
        ),
        (
            replace(SOUND, tables={k: v for k, v in SOUND.tables.items() if k != "kycache_heartbeat"}),
            "heartbeat",
            "kycache_heartbeat does not exist",
        ),
        (
            replace(SOUND, heartbeat_rows={k: s for k, s in BEATS.items() if s != 2}),
            "heartbeat",
            "no row for partition 2 of 4",
        ),
        (
            replace(SOUND, heartbeat_rows=dict.fromkeys(beat_keys(2), 0)),
            "heartbeat",
            "no row for partition ",
        ),
    ],
)
def test_each_fault_of_the_source_is_found(source: SourceFacts, check: str, problem: str) -> None:
    found = judge(source)
    assert found
    assert {finding.check for finding in found} == {check}
    assert problem in found[0].problem
    assert all(finding.remedy for finding in found)


def test_publication_before_postgresql_15() -> None:
    """Its catalog names no columns: all of a table are published."""
    tables = {name: {"columns": None, "filter": None} for name in TABLES}
    old = examination._publication((True, True, True, True, True, True, tables))
    assert judge(replace(SOUND, publication=old, version=140_000)) == []


def test_generated_columns_of_the_view() -> None:
    """Before PostgreSQL 18 no change carries them (seen on 17.7), virtual ones never."""
    columns = dict(SOUND.tables["accounts"].columns)

    def judged(generated: str, **changes: object) -> list[str]:
        there = replace(columns["status"], generated=generated)
        source = with_table(
            columns={**columns, "status": there}, identity_columns={"user_id", "account_id"}, **changes
        )
        return [f.problem for version in (170_000, 180_000) for f in judge(replace(source, version=version))]

    (before,) = judged("s")
    assert before.startswith("columns of table public.accounts are generated (status), and no change carries them")
    assert judged("v", identity="i") == [before, before]


def test_a_table_partitioned_by_time() -> None:
    """PostgreSQL keeps its key unique together with the time only: nobody is told to make another index."""
    (found,) = judge(with_table(partitioned=True, unique=(frozenset({"account_id", "opened_at"}),)))
    assert (found.check, found.severity) == ("keys", WARNING)
    assert "index" not in found.remedy


def test_index_that_holds_the_user_will_do() -> None:
    assert judge(with_table(identity="i", identity_columns=frozenset({"account_id", "user_id"}))) == []


def test_heartbeat_rows_of_another_partition_count() -> None:
    problems = [finding.problem for finding in judge(SOUND, partitions=8)]
    assert any("no row for partition" in problem for problem in problems)


def test_topic() -> None:
    home = Node(FORMAT, "id", VIEW.hash, "kyc.changes", "topic-id", 4)
    sound = TopicFacts(4, "topic-id", "delete")

    def judge_topic(topic: TopicFacts, name: str, node: Node | None, snapshots: bool = False) -> list[Finding]:
        return list(findings.judge_topic(topic, name, node, snapshots=snapshots))

    assert judge_topic(sound, "kyc.changes", home) == []
    assert judge_topic(sound, "kyc.changes", None) == []
    (absent,) = judge_topic(TopicFacts(0), "kyc.changes", home)
    assert "'kyc.changes' does not exist" in absent.problem
    (more,) = judge_topic(replace(sound, partitions=8), "kyc.changes", home)
    assert "has 8 partitions, the data directory was made for 4" in more.problem
    (other,) = judge_topic(replace(sound, id="other-id"), "kyc.changes", home)
    assert "id other-id, not topic-id" in other.problem
    (compacted,) = judge_topic(replace(sound, cleanup_policy="compact,delete"), "kyc.changes", home)
    assert "compact" in compacted.problem
    (short,) = judge_topic(replace(sound, retention_ms=1000), "kyc.changes", home)
    assert (short.severity, "retention.ms=1000" in short.problem) == ("warning", True)
    assert judge_topic(replace(sound, retention_ms=1000), "kyc.changes", home, snapshots=True) == []
    (foreign,) = judge_topic(sound, "kyc.others", home)
    assert foreign.problem == "the data directory holds topic 'kyc.changes', not 'kyc.others'"


def test_connector() -> None:
    expected = connector_config(VIEW, CONNECTOR)
    sound = ConnectorFacts(
        "RUNNING", ("RUNNING",), (), {**expected, "database.hostname": "10.0.0.7", "name": "kycache"}
    )
    assert list(judge_connector(sound, "kycache", expected)) == []
    older = {key: value.replace("(?-i)", "") for key, value in sound.config.items()}
    assert list(judge_connector(replace(sound, config=older), "kycache", expected)) == []
    (absent,) = judge_connector(ConnectorFacts(""), "kycache", expected)
    assert "no connector 'kycache'" in absent.problem
    (paused,) = judge_connector(replace(sound, state="PAUSED"), "kycache", expected)
    assert ("is PAUSED" in paused.problem, "/resume" in paused.remedy) == (True, True)
    (broken,) = judge_connector(replace(sound, state="FAILED"), "kycache", expected)
    assert ("is FAILED" in broken.problem, "/restart?" in broken.remedy) == (True, True)
    (homeless,) = judge_connector(replace(sound, tasks=("UNASSIGNED",)), "kycache", expected)
    assert "the task of connector 'kycache' is UNASSIGNED" in homeless.problem
    (failed,) = judge_connector(
        replace(sound, tasks=("FAILED",), failures=(TaskFailure(0, ("ConnectException",)),)), "kycache", expected
    )
    assert "task 0 of connector 'kycache' has failed of ConnectException" in failed.problem
    why = TaskFailure(0, ("ConnectException",), Reason("a change is too large", "raise the limit"))
    (known,) = judge_connector(replace(sound, tasks=("FAILED",), failures=(why,)), "kycache", expected)
    assert known.problem.endswith("has failed of ConnectException: a change is too large")
    assert known.remedy.startswith("raise the limit, then POST /connectors/kycache/restart?")
    assert "GET /connectors/kycache/status has the trace; remove the cause, then POST" in failed.remedy
    (idle,) = judge_connector(replace(sound, tasks=()), "kycache", expected)
    assert "has no task" in idle.problem
    key = "value.converter.replace.null.with.default"
    (lying,) = judge_connector(replace(sound, config={**sound.config, key: "true"}), "kycache", expected)
    assert f"{key} is 'true', expected 'false'" in lying.problem
    without = {k: v for k, v in sound.config.items() if k != key}
    (unset,) = judge_connector(replace(sound, config=without), "kycache", expected)
    assert f"{key} is not set, expected 'false'" in unset.problem


def test_a_connector_of_before_is_no_error() -> None:
    """It lacks what only a large row, or a standby that stalls, would miss."""
    expected = connector_config(VIEW, CONNECTOR)
    limit, sessions = "producer.override.max.request.size", "database.initial.statements"

    def judged(**changes: str | None) -> list[Finding]:
        config = {**expected, **{key.replace("_", "."): value for key, value in changes.items()}}
        there = ConnectorFacts("RUNNING", config={k: v for k, v in config.items() if v is not None})
        return list(judge_connector(there, "kycache", expected))

    beats, selects = "heartbeat.action.query", "snapshot.select.statement.overrides"
    beat = re.sub(r", fingerprint = .* FROM \(SELECT user_id", " FROM (SELECT user_id", expected[beats])
    assert "fingerprint" not in beat
    lacking = judged(heartbeat_action_query=beat, **{selects: None})
    assert [finding.severity for finding in lacking] == [WARNING] * 2
    assert all("lacks the fingerprint" in finding.problem for finding in lacking)
    (other,) = judged(heartbeat_action_query="SELECT 1")
    assert (other.severity, len(other.problem) < 400) == ("error", True)
    (small,) = judged(producer_override_max_request_size=None)
    assert small.problem.startswith(f"connector 'kycache': {limit} is not set, expected '33554432': a row that")
    (waiting,) = judged(database_initial_statements="SET TimeZone = 'UTC'")
    assert f"{sessions} is \"SET TimeZone = 'UTC'\", expected 'SET synchronous_commit = local'" in waiting.problem
    assert small.severity == waiting.severity == WARNING
    assert judged(database_initial_statements="SET TimeZone = 'UTC'; SET synchronous_commit = local") == []
    assert judged(producer_override_buffer_memory="67108864") == []
    (large,) = judged(producer_override_max_request_size="67108864")
    assert "sends up to 67108864 bytes, and ingest reads up to 33554432" in large.problem
    assert not [
        key
        for key in connector_config(VIEW, replace(CONNECTOR, producer_override=False))
        if key.startswith("producer.override")
    ]


def test_limits_of_topic_and_brokers() -> None:
    facts = TopicFacts(4, "topic-id", "delete", message_bytes_max=1_048_588, request_bytes_max=100 << 20)
    sent = CONNECTOR.message_bytes_max
    (small,) = findings.judge_topic(facts, "kyc.changes", None, snapshots=False, sent_bytes_max=sent)
    assert small.problem.startswith("topic 'kyc.changes' takes messages of up to 1048588 bytes, and the connector")
    assert (small.severity, "max.message.bytes=33554432" in small.remedy) == (WARNING, True)
    enough = replace(facts, message_bytes_max=sent)
    assert list(findings.judge_topic(enough, "kyc.changes", None, snapshots=False, sent_bytes_max=sent)) == []
    brokers = replace(enough, request_bytes_max=1 << 20)
    (small,) = findings.judge_topic(brokers, "kyc.changes", None, snapshots=False, sent_bytes_max=sent)
    assert small.problem.startswith("the brokers take requests of up to 1048576 bytes")


@pytest.mark.parametrize(
    ("message", "problem", "remedy"),
    [
        (
            "org.apache.kafka.common.errors.RecordTooLargeException: The message is 1200431 bytes when serialized "
            "which is larger than 1048576, which is the value of the max.request.size configuration.",
            "a change takes 1200431 bytes as it is sent, more than its producer may send",
            "producer.override.max.request.size",
        ),
        (
            "org.apache.kafka.connect.errors.DataException: id is not a valid field name",
            "a transform finds no field id in a key",
            "kycache connector --connector",
        ),
        (
            'org.postgresql.util.PSQLException: ERROR: replication slot "people" is active for PID 4711',
            "another connector reads replication slot people (server process 4711)",
            "`[connector] slot` of its own",
        ),
        (
            "org.postgresql.util.PSQLException: ERROR: permission denied for schema crm",
            "its role may not use schema crm",
            "the first line of `kycache connector --sql`",
        ),
        (
            'org.postgresql.util.PSQLException: FATAL: password authentication failed for user "ada"',
            "the source refuses its password",
            "`[connector] dsn`",
        ),
        ("java.lang.IllegalStateException: Ada Lovelace", None, ""),
    ],
)
def test_why_a_task_has_failed(message: str, problem: str | None, remedy: str) -> None:
    trace = (
        f"org.apache.kafka.connect.errors.ConnectException: it fails\n\tat X.run(X.java:1)\nCaused by: {message}\n"
    )
    reason = reason_of(trace)
    if problem is None:
        assert reason is None
    else:
        assert reason is not None
        assert reason.problem == problem
        assert remedy in reason.remedy


@pytest.mark.parametrize(
    ("key", "harmless", "harmful"),
    [
        ("binary.handling.mode", "bytes", "hex"),
        ("producer.override.acks", "-1", "1"),
        ("producer.override.partitioner.ignore.keys", "false", "true"),
        ("slot.drop.on.stop", "false", "true"),
        ("internal.log.position.check.enable", "true", "false"),
        ("transforms.key.negate", "", "true"),
        ("converters", "", "upper"),
        ("metrics.of.others", "theirs", ""),
    ],
)
def test_settings_that_are_not_printed(key: str, harmless: str, harmful: str) -> None:
    expected = connector_config(VIEW, CONNECTOR)

    def judged(value: str) -> list[str]:
        facts = ConnectorFacts("RUNNING", config={**expected, key: value})
        return [finding.problem for finding in judge_connector(facts, "kycache", expected)]

    assert judged(harmless) == []
    assert all(f"connector 'kycache': {key} is set: " in problem for problem in judged(harmful))
    assert len(judged(harmful)) == bool(harmful)


def test_the_unit_of_times() -> None:
    """That of the data directory's log: of a new one it is printed, of one of before it is Debezium's default."""
    key = "time.precision.mode"

    def judged(connector: ConnectorSettings, config: dict[str, str], *, times_of_day: bool = False) -> list[str]:
        facts = ConnectorFacts("RUNNING", config=config)
        expected = connector_config(VIEW, connector)
        return [f.problem for f in judge_connector(facts, "kycache", expected, times_of_day=times_of_day)]

    new, old = CONNECTOR, replace(CONNECTOR, times=TimePrecision.ADAPTIVE)
    configs = {times: connector_config(VIEW, replace(CONNECTOR, times=times)) for times in TimePrecision}
    micro, adaptive = configs[TimePrecision.MICROSECONDS], configs[TimePrecision.ADAPTIVE]
    assert judged(new, micro) == judged(old, adaptive) == judged(old, {**adaptive, key: "adaptive"}) == []
    assert judged(new, adaptive) == [f"connector 'kycache': {key} is not set, expected 'microseconds'"]
    for other in ("adaptive", "connect", "isostring", "adaptive_time_microseconds"):
        assert judged(new, {**micro, key: other}) == [
            f"connector 'kycache': {key} is {other!r}, expected 'microseconds'"
        ]
    harm = [f"connector 'kycache': {key} is set: times come in units that are not expected"]
    for other in ("microseconds", "connect", "nanoseconds"):
        assert judged(old, {**adaptive, key: other}) == harm
    assert judged(old, {**adaptive, key: "adaptive_time_microseconds"}) == []
    assert judged(old, {**adaptive, key: "adaptive_time_microseconds"}, times_of_day=True) == harm


def test_a_precision_matters_to_an_adaptive_log_only() -> None:
    there = SOUND.tables["users"]
    users = replace(there, columns={**there.columns, "created_at": ColumnFacts("timestamp", precision=3)})
    source = replace(SOUND, tables={**SOUND.tables, "users": users})
    assert judge(source) == []
    adaptive = replace(CONNECTOR, times=TimePrecision.ADAPTIVE)
    (found,) = judge_source(source, VIEW, adaptive, KeyForm.PLAIN, 4, WAL_MAX)
    assert "created_at of table public.users is a timestamp(3), the view declares timestamp" in found.problem
    assert "wrong by a factor of 1000" in found.problem


def test_dates_that_a_snapshot_shifts() -> None:
    column = ("users", "date_of_birth")
    (found,) = judge(replace(SOUND, odd_dates={column: True}))
    assert (found.check, found.severity) == ("dates", "error")
    assert "column date_of_birth of table public.users has dates before Christ" in found.problem
    (unasked,) = judge(replace(SOUND, odd_dates={column: None}))
    assert (unasked.check, unasked.severity) == ("dates", WARNING)
    assert "SELECT EXISTS (SELECT FROM public.users WHERE date_of_birth <" in unasked.remedy
    assert judge(replace(SOUND, odd_dates={column: False})) == []


def test_nothing_answers(kycache_process: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "kycache.toml").write_text(
        "[kafka]\nbootstrap = '127.0.0.1:1'\n[source]\ndsn = 'postgresql://app:hunter2@127.0.0.1:1/app'\n"
        "[connect]\nurl = 'http://127.0.0.1:1'\n",
        encoding="utf-8",
    )
    ended = kycache_process("doctor", "--json")
    assert ended.code == 4
    assert [finding["check"] for finding in ended.json["findings"]] == ["topic", "source", "connector"]
    assert "hunter2" not in ended.out + ended.err


@pytest.fixture
def sick(pipeline: Pipeline) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """The source, to be made ill; what `kycache connector` prints heals it."""
    with psycopg.connect(pipeline.dsn, autocommit=True) as database:
        yield database


def configure(folder: Path, pipeline: Pipeline) -> None:
    lines = [
        f"[kafka]\nbootstrap = '{pipeline.bootstrap}'\ntopic = '{pipeline.topic}'",
        f"[source]\ndsn = '{pipeline.dsn}'",
    ]
    if pipeline.connect_url:
        lines.append(f"[connect]\nurl = '{pipeline.connect_url}'")
    (folder / "kycache.toml").write_text("\n".join(lines), encoding="utf-8")


def test_the_demo_is_sound_and_what_is_broken_is_found(
    kycache_process: RunCommand,
    tmp_path: Path,
    pipeline: Pipeline,
    sick: "psycopg.Connection[tuple[object, ...]]",
) -> None:
    configure(tmp_path, pipeline)
    ended = kycache_process("doctor")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("sound: topic, source")
    assert len(ended.out.splitlines()) == 1
    unlooked = "" if pipeline.connect_url else "; the connector was not looked at: `[connect] url` is not set"
    assert ended.out.endswith(f"{unlooked}\n")

    sick.execute("ALTER TABLE accounts REPLICA IDENTITY DEFAULT")
    sick.execute("ALTER TABLE users DISABLE TRIGGER kycache_truncated")
    sick.execute("DELETE FROM kycache_heartbeat WHERE shard = 1")
    try:
        ended = kycache_process("doctor", "--json")
        assert ended.code == 5
        assert not ended.json["sound"]
        checks = [finding["check"] for finding in ended.json["findings"]]
        # After 10 s the partition whose row is gone is old, too.
        assert [check for check in checks if check != "heartbeats"] == [
            "truncate trigger",
            "replica identity",
            "heartbeat",
        ]
    finally:
        for statement in kycache_process("connector", "--sql", "--json").json:
            sick.execute(statement.encode())
    assert kycache_process("doctor").code == 0


def test_log() -> None:
    now_ms, sample = 1_000_000_000, 500
    beaten = PartitionFacts(0, 900, 500, beat_ms=now_ms - 400, streamed_ms=now_ms - 10)

    def judge_log(facts: PartitionFacts, needed: int = 900, *, heartbeat: bool = True) -> list[str]:
        log = LogFacts({1: facts}, sample)
        found = findings.judge_log(log, {1: needed}, now_ms, heartbeat=heartbeat)
        return [finding.problem for finding in found]

    assert judge_log(beaten) == []
    assert judge_log(replace(beaten, beat_ms=None)) == []  # a full sample of fresh changes: under load
    assert judge_log(replace(beaten, beat_ms=None, read=20)) == [
        "partition 1 has no heartbeat among its last 500 records"
    ]
    assert judge_log(replace(beaten, beat_ms=now_ms - 60_000)) == [
        "the newest heartbeat of partition 1 is 60 s old"
    ]
    assert judge_log(replace(beaten, beat_ms=now_ms - 60_000), heartbeat=False) == []
    assert judge_log(replace(beaten, start=7), needed=6) == [
        "partition 1 begins at offset 7, its shard reads on from 6"
    ]
    assert judge_log(beaten, needed=901) == [
        "partition 1 ends at offset 900, its shard has read up to 901: the broker lost records, and other "
        "partitions may lack some too"
    ]
    assert judge_log(replace(beaten, beat_ms=None, read=20, unread=True)) == [
        "the last records of partition 1 could not be read in time: nothing is known of them"
    ]
    assert judge_log(replace(beaten, misrouted="offset 3: wrong")) == ["partition 1: offset 3: wrong"]


def test_beats_of_another_database() -> None:
    now_ms = 1_000_000_000
    log = LogFacts({0: PartitionFacts(0, 9, 9, beat_ms=now_ms - 30_000)}, 500)

    def judged(beaten_s: float | None) -> list[str]:
        found = findings.judge_log(log, {}, now_ms, beaten_s=beaten_s)
        return [finding.problem for finding in found if finding.check == "source"]

    assert judged(None) == judged(0.2) == judged(35) == []  # not known; not replicated; both stand still
    (elsewhere,) = judged(3600)
    assert "were written 3600 s ago, and newer beats stand in the topic" in elsewhere


def test_partitions_are_named_up_to_a_number() -> None:
    assert findings.several(range(8)) == "0, 1, 2, 3, 4, 5, 6, 7"
    assert findings.several(range(250)) == "0, 1, 2, 3, 4, 5, 6, 7 and 242 more"


def test_a_source_that_moved_back() -> None:
    assert list(judge_history(replace(SOUND, lsn=0x200), 0x200)) == []
    assert list(judge_history(replace(SOUND, lsn=None), 0x200)) == []  # a standby
    (back,) = judge_history(replace(SOUND, lsn=0x1FF), 0x200)
    assert "at LSN 0/1FF, before 0/200" in back.problem


def test_disk() -> None:
    assert list(findings.judge_disk(findings.DISK_FREE_BYTES_MIN, Path("data"))) == []
    (full,) = findings.judge_disk(3 << 20, Path("data"))
    assert (full.check, full.problem.split(":")[0]) == ("disk", "the disk of data has 3 MiB left")


def test_a_lost_slot_and_other_things_that_are_not_broken_on_purpose() -> None:
    def slot(**changes: object) -> SourceFacts:
        assert SOUND.slot is not None
        return replace(SOUND, slot=replace(SOUND.slot, **changes))  # type: ignore[arg-type]

    (lost,) = judge(slot(wal_status="lost", active=False, why_lost="wal_removed"))
    assert "is lost (wal_removed)" in lost.problem
    assert "pg_drop_replication_slot('kycache'), then run `kycache rebuild --epoch`" in lost.remedy
    (half,) = judge(slot(keep_bytes_max=64 << 20, retained_bytes=33 << 20))
    assert "the source keeps it up to 64 MiB" in half.problem
    (alien,) = judge(slot(database="other"))
    assert "of plugin pgoutput and database other" in alien.problem
    partitioned = with_table(partitioned=True)
    assert judge(partitioned) == []
    assert partitioned.publication is not None
    (each,) = judge(replace(partitioned, publication=replace(partitioned.publication, via_root=False)))
    assert "table accounts is partitioned" in each.problem
