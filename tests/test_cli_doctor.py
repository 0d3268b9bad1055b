"""`kycache doctor`: what is concluded from plain facts, and what it sees on a real source and broker."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from command_line import RunCommand
from stack import Pipeline

from kycache.actors.files import FORMAT, Node
from kycache.cli.findings import (
    ConnectorFacts,
    Finding,
    PublicationFacts,
    SourceFacts,
    TableFacts,
    TopicFacts,
    judge_connector,
    judge_source,
    judge_topic,
)
from kycache.model.connector import ConnectorSettings, beat_keys, connector_config
from kycache.model.partition import KeyForm
from kycache.model.view import default_view

VIEW = default_view()
CONNECTOR = ConnectorSettings(host="db", port=5432, user="app", password="x", dbname="app", partitions=4)
OPERATIONS = frozenset({"insert", "update", "delete", "truncate"})
NAMES = frozenset({"users", "kyc_records", "accounts", "kycache_heartbeat"})


def sound_table(name: str) -> TableFacts:
    table = next(t for t in VIEW.tables if t.name == name)
    return TableFacts("f", frozenset({*(c.name for c in table.columns), table.owner, "not_in_the_view"}))


SOUND = SourceFacts(
    wal_level="logical",
    in_recovery=False,
    tables={table.name: sound_table(table.name) for table in VIEW.tables},
    publication=PublicationFacts(NAMES, OPERATIONS),
    heartbeat_rows={key: shard for shard, key in enumerate(beat_keys(4))},
)


def judge(source: SourceFacts, partitions: int = 4) -> list[Finding]:
    return list(judge_source(source, VIEW, CONNECTOR, KeyForm.PLAIN, partitions))


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
        (with_table(truncate_trigger=False), "truncate trigger", "public.accounts has no enabled trigger"),
        (
            with_table(columns=frozenset({"account_id", "user_id"})),
            "tables",
            "has no column account_no, account_type, balance, opened_at, status",
        ),
        (
            replace(SOUND, tables={k: v for k, v in SOUND.tables.items() if k != "accounts"}),
            "tables",
            "public.accounts does not exist",
        ),
        (replace(SOUND, publication=None), "publication", "publication 'kycache' does not exist"),
        (
            replace(SOUND, publication=PublicationFacts(NAMES - {"accounts", "kycache_heartbeat"}, OPERATIONS)),
            "publication",
            "does not cover accounts, kycache_heartbeat",
        ),
        (
            replace(SOUND, publication=PublicationFacts(NAMES, OPERATIONS - {"truncate"})),
            "publication",
            "does not publish truncate",
        ),
        (replace(SOUND, heartbeat_rows=None), "heartbeat", "kycache_heartbeat does not exist"),
        (
            replace(SOUND, heartbeat_rows={k: s for k, s in SOUND.heartbeat_rows.items() if s != 2}),  # type: ignore[union-attr]
            "heartbeat",
            "no row for partition 2 of 4",
        ),
        (
            replace(SOUND, heartbeat_rows={k: 3 - s for k, s in SOUND.heartbeat_rows.items()}),  # type: ignore[union-attr]
            "heartbeat",
            "names shard 3, and lands in partition 0 of 4",
        ),
    ],
)
def test_each_fault_of_the_source_is_found(source: SourceFacts, check: str, problem: str) -> None:
    findings = judge(source)
    assert findings
    assert {finding.check for finding in findings} == {check}
    assert problem in findings[0].problem
    assert all(finding.remedy for finding in findings)


def test_index_that_holds_the_user_will_do() -> None:
    assert judge(with_table(identity="i", identity_columns=frozenset({"account_id", "user_id"}))) == []


def test_heartbeat_rows_of_another_partition_count() -> None:
    problems = [finding.problem for finding in judge(SOUND, partitions=8)]
    assert any("no row for partition" in problem for problem in problems)


def test_topic() -> None:
    home = Node(FORMAT, "id", VIEW.hash, "kyc.changes", "topic-id", 4)
    sound = TopicFacts(4, "topic-id", "delete")
    assert list(judge_topic(sound, "kyc.changes", home)) == []
    assert list(judge_topic(sound, "kyc.changes", None)) == []
    (absent,) = judge_topic(TopicFacts(0), "kyc.changes", home)
    assert "'kyc.changes' does not exist" in absent.problem
    (more,) = judge_topic(replace(sound, partitions=8), "kyc.changes", home)
    assert "has 8 partitions, the data directory was made for 4" in more.problem
    (other,) = judge_topic(replace(sound, id="other-id"), "kyc.changes", home)
    assert "id other-id, not topic-id" in other.problem
    (compacted,) = judge_topic(replace(sound, cleanup_policy="compact,delete"), "kyc.changes", home)
    assert "compact" in compacted.problem


def test_connector() -> None:
    expected = connector_config(VIEW, CONNECTOR)
    sound = ConnectorFacts("RUNNING", (), {**expected, "database.hostname": "10.0.0.7", "name": "kycache"})
    assert list(judge_connector(sound, "kycache", expected)) == []
    (absent,) = judge_connector(ConnectorFacts(""), "kycache", expected)
    assert "no connector 'kycache'" in absent.problem
    (paused,) = judge_connector(replace(sound, state="PAUSED"), "kycache", expected)
    assert "is PAUSED" in paused.problem
    (failed,) = judge_connector(replace(sound, failed_tasks=(0,)), "kycache", expected)
    assert "task 0" in failed.problem
    key = "value.converter.replace.null.with.default"
    (lying,) = judge_connector(replace(sound, config={**sound.config, key: "true"}), "kycache", expected)
    assert f"{key} is 'true', expected 'false'" in lying.problem
    without = {k: v for k, v in sound.config.items() if k != key}
    (unset,) = judge_connector(replace(sound, config=without), "kycache", expected)
    assert f"{key} is not set, expected 'false'" in unset.problem


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

    sick.execute("ALTER TABLE accounts REPLICA IDENTITY DEFAULT")
    sick.execute("ALTER TABLE users DISABLE TRIGGER kycache_truncated")
    sick.execute("DELETE FROM kycache_heartbeat WHERE shard = 1")
    try:
        ended = kycache_process("doctor", "--json")
        assert ended.code == 5
        assert not ended.json["sound"]
        assert [finding["check"] for finding in ended.json["findings"]] == [
            "truncate trigger",
            "replica identity",
            "heartbeat",
        ]
    finally:
        sick.execute("ALTER TABLE users ENABLE TRIGGER kycache_truncated")
        sick.execute(kycache_process("connector", "--sql").out.encode())
    assert kycache_process("doctor").code == 0
