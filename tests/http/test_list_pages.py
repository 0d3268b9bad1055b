"""Pages of the list by number, over real shards: exact for any filters, of one moment, and after kills."""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from kycache.actors.files.directory import DataDirectory
from kycache.actors.integrity.vouching import mark_of, vouch
from kycache.actors.order import layout as order
from kycache.actors.order import views as order_views
from kycache.model.definition import default_view, parse_view
from kycache.model.lsn import format_lsn
from kycache.model.scalars.times import INFINITY, MINUS_INFINITY
from support.http_stand import LABELS, Stand, User, now_ms, people, serving
from support.killing import killed_writer
from support.shards import ShardUnderTest

TESTS = Path(__file__).parents[1]

FOUR_FILTERS = """
name = "four"
[root]
table = "users"
key = "user_id"
[root.columns]
user_id = { name = "userId", type = "uuid" }
first_name = { name = "firstName", type = "text", privacy = "pii" }
last_name = { name = "lastName", type = "text", privacy = "pii" }
region = { name = "region", type = "text" }
active = { name = "active", type = "bool" }
level = { name = "level", type = "int" }
created_at = { name = "createdAt", type = "timestamp" }
[[children]]
table = "kyc_records"
key = "kyc_id"
owner = "user_id"
name = "kyc"
order = "updated_at desc"
[children.columns]
kyc_id = { name = "kycId", type = "uuid" }
status = { name = "status", type = "enum(PENDING,VERIFIED,REJECTED,EXPIRED)" }
updated_at = { name = "updatedAt", type = "timestamp" }
[status]
name = "kycStatus"
child = "kyc"
column = "status"
none = "NONE"
[list]
order = "created_at"
fields = ["userId", "firstName", "lastName", "kycStatus"]
filters = ["kycStatus", "region", "active", "level"]
"""

ASKED = {
    "kycStatus": (None, "VERIFIED", "NONE"),
    "region": (None, "EMEA", "é & ü", "nowhere"),
    "active": (None, "true", "false"),
    "level": (None, "0", "-3", "9223372036854775807"),
}


def matches(user: User, asked: dict[str, str]) -> bool:
    active, level = user.more["active"], user.more["level"]
    has = {
        "kycStatus": user.status,
        "region": user.region,
        "active": None if active is None else str(active).lower(),
        "level": None if level is None else str(level),
    }
    return all(has[name] == value for name, value in asked.items())


def in_order(users: list[User], *, newest: bool) -> list[User]:
    """ORDER BY created_at DESC, user_id DESC as Postgres does (NULL first), or its reverse."""
    return sorted(users, key=lambda u: (u.created_us is None, u.created_us or 0, u.key), reverse=newest)


async def test_every_filter_that_a_view_may_declare(tmp_path: Path) -> None:
    rnd = random.Random(31)
    users = people(400, seed=31)
    for user in users:
        user.more = {"active": rnd.choice((True, False, None)), "level": rnd.choice((0, -3, 2**63 - 1, None))}
        if rnd.random() < 0.1:
            user.created_us = rnd.choice((MINUS_INFINITY, INFINITY, None))
    stand = Stand(tmp_path / "data", view=parse_view(FOUR_FILTERS, "four.toml"))
    stand.load(users)
    questions = [dict(zip(ASKED, values, strict=True)) for values in product(*ASKED.values())]
    async with serving(stand) as client:
        for given in rnd.sample(questions, 70):
            asked = {name: value for name, value in given.items() if value is not None}
            newest, size = rnd.random() < 0.5, rnd.choice((1, 7, 50))
            rows = [user.row() for user in in_order([u for u in users if matches(u, asked)], newest=newest)]
            page = rnd.randrange(1, len(rows) // size + 3)
            query = {**asked, "order": "newest" if newest else "oldest", "size": str(size), "page": str(page)}
            body = (await client.get("/users", params=query)).raise_for_status().json()
            assert body["data"] == rows[(page - 1) * size : page * size], query
            assert body["page"]["total"] == len(rows), query
        refused = await client.get("/users", params={"active": "maybe"})
        assert refused.status_code == 400
        assert refused.json()["parameter"] == "active"
    stand.close()


async def test_filters_on_uuid_and_date(tmp_path: Path) -> None:
    text = FOUR_FILTERS.replace('name = "active", type = "bool"', 'name = "active", type = "uuid"')
    text = text.replace('name = "level", type = "int"', 'name = "level", type = "date"')
    branches = [bytes([n]) * 16 for n in (1, 171)]
    dates = {"2024-02-29": 19782, "0044-03-15 BC": -735160, "infinity": INFINITY}
    rnd = random.Random(5)
    users = people(120, seed=5)
    for user in users:
        user.more = {"active": rnd.choice((*branches, None)), "level": rnd.choice((*dates.values(), None))}
    stand = Stand(tmp_path / "data", view=parse_view(text, "four.toml"))
    stand.load(users)
    async with serving(stand) as client:
        for branch, (shown, day) in product(branches, dates.items()):
            asked = {"active": str(UUID(bytes=branch)).upper(), "level": shown, "size": "7"}
            body = (await client.get("/users", params=asked)).raise_for_status().json()
            wanted = [u for u in users if u.more == {"active": branch, "level": day}]
            assert body["page"]["total"] == len(wanted) > 0
            pages = [user.row() for user in in_order(wanted, newest=True)]
            assert body["data"] == pages[:7]
            if body["page"]["next"]:
                more = await client.get(f"/users?cursor={body['page']['next']}&active={asked['active']}")
                assert more.json()["data"] == pages[7:14]
    stand.close()


async def test_values_past_the_limit_neither_halt_nor_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text filter's values are open: past the limit they share columns, from ingest to the answer."""
    monkeypatch.setattr(order, "COMBINATIONS_MAX", 5)
    monkeypatch.setattr(order, "SHARED_COLUMNS", 2)
    users = people(240, seed=7)
    for place, user in enumerate(users):
        user.region = f"region {place % 40}"
    stand = Stand(tmp_path / "data")
    stand.load(users)
    async with serving(stand) as client:
        for number in (0, 17, 39, 40):
            rows = [u.row() for u in in_order(users, newest=True) if u.region == f"region {number}"]
            body = (await client.get("/users", params={"region": f"region {number}"})).json()
            assert (body["data"], body["page"]["total"]) == (rows, len(rows))
        for status in (*LABELS, "NONE"):
            body = (await client.get("/users", params={"kycStatus": status, "size": "1"})).json()
            assert body["page"]["total"] == sum(user.status == status for user in users)
    stand.close()


@pytest.mark.parametrize("query", ["/users?size=500", "/users?size=500&kycStatus=NONE", "/users?size=20&page=3"])
async def test_a_page_is_of_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    """Every shard commits between the first transaction's begin and the first row read: none of it is seen."""
    users = people(90, seed=3)
    stand = Stand(tmp_path / "data")
    stand.load(users)
    asked_at = now_ms()
    lsns = [stand.beat([shard], ts_ms=asked_at - 1_000 * (3 - shard)) for shard in range(3)]
    wrote: list[bool] = []

    def write_everywhere() -> None:
        """New users in front of all, old ones gone, in every shard; once."""
        if wrote:
            return
        wrote.append(True)
        for user in people(30, seed=4):
            user.created_us = INFINITY
            stand.put(user)
        for user in users[:30]:
            stand.delete(user)
        stand.beat()

    def first_write(read: Callable[..., Any], *arguments: Any) -> Any:
        write_everywhere()
        return read(*arguments)

    async with serving(stand) as client:
        before = await client.get(query)
        for name in ("rows", "matches"):
            read = getattr(order_views.ShardRecords, name)

            def patched(*arguments: Any, read: Callable[..., Any] = read) -> Any:
                return first_write(read, *arguments)

            monkeypatch.setattr(order_views.ShardRecords, name, patched)
        # Another size is another query: what was kept of the first answer does not answer it.
        during = await client.get(query.replace("size=500", "size=499").replace("size=20", "size=21"))
        assert wrote
        after = await client.get(query.replace("size=500", "size=498").replace("size=20", "size=22"))
    rows, total = before.json()["data"], before.json()["page"]["total"]
    assert during.json()["page"]["total"] == total
    if "page" not in query:
        assert during.json()["data"] == rows
    else:
        old = [user.row() for user in in_order(users, newest=True)]
        assert during.json()["data"] == old[2 * 21 : 3 * 21]
    assert after.json()["data"] != rows
    # As true as the least fresh shard of that moment, which is the first.
    for answer in (before, during):
        assert answer.headers["kycache-watermark"] == format_lsn(lsns[0])
        assert answer.json()["asOf"] is not None
        assert answer.json()["asOf"] == before.json()["asOf"]
    stand.close()


def test_a_writer_killed_again_and_again_leaves_an_exact_index(tmp_path: Path) -> None:
    """kill -9 in the middle of batches: rows, counts and totals are those of a shard that was never killed."""
    seed = 41
    print(f"seed {seed}")
    rnd = random.Random(seed)
    items = killed_writer.items_of(seed)
    twin = ShardUnderTest(tmp_path / "twin", default_view())
    applied = 0
    for _ in range(3):
        command = [sys.executable, "-m", "support.killing.killed_writer", str(tmp_path / "killed"), str(seed)]
        with subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(rnd.randrange(2, 20)):
                assert writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
        generation = DataDirectory(tmp_path / "killed").shard(0).current()
        assert generation is not None
        vouch(generation, mark_of(generation))  # instead of a walk: every row is counted below
        shard = ShardUnderTest(tmp_path / "killed", default_view())
        position = shard.state.position.offset
        assert applied < position
        twin.apply(items[applied:position])
        applied = position
        for filters in (
            {},
            {"kycStatus": "VERIFIED"},
            {"region": "EMEA"},
            {"kycStatus": "NONE", "region": "APAC"},
        ):
            assert json.dumps(shard.listed(**filters)) == json.dumps(twin.listed(**filters))
        shard.close()  # counts every row anew, and compares
    twin.close()
