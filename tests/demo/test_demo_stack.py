"""Both stacks, without kycache: what reaches the topic is what the design builds on."""

import json
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from kycache.model.partition import partition_of
from support.pipeline.stack import Pipeline, records

CHANGES_WITHIN_S = 60.0
"""Far above the two seconds a change takes; CI's machine has other things to do."""

USERS = 40


@contextmanager
def consuming(pipeline: Pipeline) -> Iterator[Any]:
    consumer = pipeline.consumer()
    try:
        yield consumer
    finally:
        consumer.close()


def add_users(db: psycopg.Connection[Any], count: int) -> list[str]:
    ids = [str(uuid.uuid4()) for _ in range(count)]
    with db.transaction():
        for user in ids:
            db.execute("INSERT INTO users (user_id, first_name, last_name) VALUES (%s, 'Zoë', '李')", (user,))
            db.execute("INSERT INTO kyc_records (user_id) VALUES (%s)", (user,))
            account = "INSERT INTO accounts (user_id, account_type, account_no, balance) "
            db.execute(account + "VALUES (%s, 'WALLET', 'W', 1.5)", (user,))
    return ids


def test_keys_are_plain_user_ids_in_their_own_partition(pipeline: Pipeline) -> None:
    with psycopg.connect(pipeline.dsn, autocommit=True) as db, consuming(pipeline) as consumer:
        ids = set(add_users(db, USERS))
        try:
            tables: dict[str, set[str]] = defaultdict(set)
            partitions: dict[str, set[int]] = defaultdict(set)
            for record in records(consumer, CHANGES_WITHIN_S):
                if record.key is None or record.value is None:
                    continue
                assert partition_of(record.key, pipeline.partitions) == record.partition
                user, value = record.key.decode(), json.loads(record.value)
                if user in ids and value["op"] == "c":
                    assert value["after"]["user_id"] == user
                    tables[user].add(value["source"]["table"])
                    partitions[user].add(record.partition)
                if sum(map(len, tables.values())) == 3 * USERS:
                    break
            assert set(tables) == ids
            assert all(seen == {"users", "kyc_records", "accounts"} for seen in tables.values())
            assert all(len(seen) == 1 for seen in partitions.values())
            assert len(set().union(*partitions.values())) == pipeline.partitions
        finally:
            db.execute("DELETE FROM users WHERE user_id = ANY(%s::uuid[])", (list(ids),))


def test_values_come_in_the_forms_that_are_decoded(pipeline: Pipeline) -> None:
    with psycopg.connect(pipeline.dsn, autocommit=True) as db, consuming(pipeline) as consumer:
        (user,) = add_users(db, 1)
        db.execute("UPDATE accounts SET status = NULL WHERE user_id = %s", (user,))
        db.execute("DELETE FROM users WHERE user_id = %s", (user,))
        seen: list[tuple[str, str, dict[str, Any]]] = []
        tombstones = 0
        for record in records(consumer, CHANGES_WITHIN_S):
            if record.key != user.encode():
                continue
            if record.value is None:
                tombstones += 1
            else:
                value = json.loads(record.value)
                seen.append((value["source"]["table"], value["op"], value))
            if tombstones == 3:
                break
        rows = {(table, op): value for table, op, value in seen}
    assert rows["users", "c"]["after"]["first_name"] == "Zoë"
    assert rows["accounts", "c"]["after"]["balance"] == "1.5000"
    assert rows["accounts", "u"]["after"]["status"] is None  # not the column's default
    assert rows["accounts", "u"]["before"]["status"] == "OPEN"  # REPLICA IDENTITY FULL
    assert rows["kyc_records", "d"]["before"]["user_id"] == user
    assert seen[0][2]["source"]["sequence"].startswith("[")


def test_every_partition_has_beats_and_hears_of_a_truncate(pipeline: Pipeline) -> None:
    with psycopg.connect(pipeline.dsn, autocommit=True) as db, consuming(pipeline) as consumer:
        add_users(db, 1)
        db.execute("TRUNCATE accounts")
        marked: set[int] = set()
        beats: dict[int, int] = defaultdict(int)
        events = 0
        for record in records(consumer, CHANGES_WITHIN_S):
            value: dict[str, Any] = json.loads(record.value) if record.value else {"op": "tombstone"}
            if value["op"] == "t":
                assert record.key is None
                events += 1
            elif value["op"] == "u" and value["source"]["table"] == "kycache_heartbeat":
                if "accounts" in (value["after"]["truncated"] or "").split(","):
                    marked.add(record.partition)
                elif record.partition in marked:
                    beats[record.partition] += 1
            if events and len(beats) == pipeline.partitions and min(beats.values()) >= 3:
                break
        db.execute("DELETE FROM users")
    assert events == 1
    assert marked == set(range(pipeline.partitions))
    assert set(beats) == marked
