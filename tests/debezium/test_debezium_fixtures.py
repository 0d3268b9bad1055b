"""The captured events of Debezium 3.6.3, replayed into one shard: after each scenario the view is as Postgres was.

The events carry quoted keys and record no partition, so they go into P = 1 (DEBEZIUM 31). What the scenarios
did is in `fixtures/debezium-3.6.3-pg18/scenario.py`; expectations below are that SQL, by hand. In
`delete-replica-identity-default`, `update-owner-default` and `truncate` the events do not say what Postgres
held: there the quarantine, the ghost and the `stale` mark are expected instead (DEBEZIUM 12, 13, 18).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kycache.ingest.decoding.decode import Record, RecordDecoder
from kycache.model.change import Item
from kycache.model.definition import load_view
from kycache.model.partition import KeyForm
from support.shards import ShardUnderTest

HERE = Path(__file__).parents[1] / "fixtures"
EVENTS = HERE / "debezium-3.6.3-pg18" / "events.jsonl"
VIEW = load_view(HERE / "view.toml")

Users = dict[int, dict[str, Any]]


def user(first: str, last: str, **rest: Any) -> dict[str, Any]:
    return {"name": f"{first} {last}", "phone": None, "notes": 0, "kyc": [], "accounts": {}, **rest}


def initial() -> Users:
    return {
        1: user("Ada", "Lovelace", notes=20, kyc=[("VERIFIED", None)], accounts={"S-1": ("1234.5678", "OPEN")}),
        2: user("Alan", "Turing"),
    }


def insert_multi_table(users: Users) -> None:
    users[3] = user(
        "Grace",
        "Hopper",
        kyc=[("PENDING", None)],
        accounts={"W-3": ("0.0001", "OPEN"), "C-3": ("-5.0000", "OPEN")},
    )


def set_phone(phone: str, **more: Any) -> Any:
    return lambda users: users[1].update(phone=phone, **more)


def ghost(users: Users) -> None:
    """`before` was null: the old owner keeps a ghost of W-3, as the events give no way to know better."""
    users[2]["accounts"]["W-3"] = ("0.0001", "OPEN")


def owner_full(users: Users) -> None:
    del users[2]["accounts"]["W-3"]


def key_change(users: Users) -> None:
    users[5] = user("Old", "Key")


def cascade(users: Users) -> None:
    del users[3]


def copied(users: Users) -> None:
    users.update({n: user(f"Copy{n}", "Row") for n in range(6, 10)})


def account(balance: str, status: str | None) -> Any:
    return lambda users: users[1]["accounts"].update({"S-1": (balance, status)})


def infinities(users: Users) -> None:
    users[1]["kyc"] = [("VERIFIED", "infinity")]
    users[2]["updatedAt"] = "-infinity"


def nothing(users: Users) -> None:
    """What Postgres held did not change."""


# In the order of the file; each changes what the view must then be.
SCENARIOS: dict[str, Any] = {
    "insert-multi-table-one-tx": insert_multi_table,
    "update-replica-identity-full": set_phone("+1"),
    "rolled-back-tx": nothing,
    "toast-unchanged-full": set_phone("+2", notes=20_000),
    "toast-unchanged-default": set_phone("+3"),
    "delete-replica-identity-default": nothing,  # quarantined: C-3 stays, and every shard is suspect
    "update-owner-default": ghost,
    "restore-full": nothing,
    "update-owner-full": owner_full,
    "primary-key-change": key_change,
    "delete-cascade": cascade,
    "copy-shared-lsn": copied,
    "null-into-default-column": account("1234.5678", None),
    "numeric-nan-infinity": account("NaN", None),
    "timestamp-infinity": infinities,
    "add-column": set_phone("+4"),
    "drop-column": set_phone("+5"),
    "incremental-snapshot-signal": nothing,
    "logical-message": nothing,
    "truncate": nothing,  # without the trigger no shard can know: stale
    "heartbeat": nothing,
    "end": nothing,
}


def batches() -> Iterator[tuple[str, list[Item]]]:
    """(scenario, its items); the first is the initial snapshot."""
    decoder = RecordDecoder(VIEW, KeyForm.QUOTED)
    name, offset = "initial", 0
    items: list[Item] = []
    for line in EVENTS.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if "scenario" in event:
            yield name, items
            name, items = event["scenario"], []
        elif event["topic"] == "kyc.changes":
            key, value = event["key"], event["value"]
            record = Record(offset, 0, key and key.encode(), value and value.encode())
            items.append(decoder.decode(record))
            offset += 1
    yield name, items


def key_of(number: int) -> bytes:
    return bytes.fromhex(f"00000000000040008000{number:012x}")


def seen(shard: ShardUnderTest) -> Users:
    """What the view shows, in the terms of the expectations; list and detail must agree."""
    users: Users = {}
    for row in shard.listed():
        number = int(row["userId"][-4:], 16)
        body = shard.detail(key_of(number))
        assert body is not None
        assert {k: body[k] for k in row} == row
        users[number] = {
            "name": f"{body['firstName']} {body['lastName']}",
            "phone": body["phone"],
            "notes": len(body["notes"] or ""),
            "kyc": [(k["status"], k["verifiedAt"]) for k in body["kyc"]],
            "accounts": {a["accountNo"]: (a["balance"], a["status"]) for a in body["accounts"]},
        }
        if body["updatedAt"] == "-infinity":
            users[number]["updatedAt"] = "-infinity"
    return users


def apply_one_by_one(shard: ShardUnderTest, items: list[Item]) -> None:
    for item in items:
        assert shard.apply([item]).halt is None


def apply_at_once(shard: ShardUnderTest, items: list[Item]) -> None:
    if items:
        assert shard.apply(items).halt is None


def apply_twice(shard: ShardUnderTest, items: list[Item]) -> None:
    apply_at_once(shard, items)
    before = seen(shard)
    apply_at_once(shard, items)
    assert seen(shard) == before


@pytest.mark.parametrize("apply", [apply_one_by_one, apply_at_once, apply_twice])
def test_every_scenario_leaves_the_view_as_postgres_was(tmp_path: Path, apply: Any) -> None:
    shard = ShardUnderTest(tmp_path, VIEW)
    expected = initial()
    met = []
    for name, items in batches():
        if name != "initial":
            SCENARIOS[name](expected)
            met.append(name)
        apply(shard, items)
        assert seen(shard) == expected, name
        kinds = {d.kind for d in shard.doubts}
        assert ("suspect" in kinds) == (met.count("delete-replica-identity-default") > 0), name
        assert ("stale" in kinds) == (met.count("truncate") > 0), name
    assert met == list(SCENARIOS)
    shard.close()


def test_freshness_of_the_captured_events(tmp_path: Path) -> None:
    shard = ShardUnderTest(tmp_path, VIEW)
    watermarks = []
    for _, items in batches():
        apply_at_once(shard, items)
        state = shard.state
        watermarks.append(state.watermark)
        assert state.heartbeat
        assert state.bootstrapped
    assert watermarks == sorted(watermarks)
    state = shard.state
    assert state.generation == 51996328
    assert state.counters.unknown_columns == 1  # `nickname`, the added column (DEBEZIUM 28)
    assert state.quarantined == 1
    shard.close()
