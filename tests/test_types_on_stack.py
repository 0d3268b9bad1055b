"""Every type that a view may declare, on a real PostgreSQL and a real Debezium: printed as PostgreSQL prints it,
out of a snapshot and out of the stream."""

import json
import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from kycache.demo.servers import embedded
from kycache.demo.servers.children import stopping
from kycache.demo.servers.layout import TOPIC, Layout, Ports
from kycache.demo.servers.ports import HOST, free_ports
from kycache.demo.servers.postgres import new_password
from kycache.demo.servers.stack import Kind, Stack, open_stack
from kycache.model.connector import connector_config
from kycache.model.definition import parse_view
from kycache.model.scalars.numbers import print_float4, print_float8
from kycache.model.scalars.times import TimePrecision
from support.pipeline.running_demo import KYCACHE
from support.waiting import wait_until

READY_WAIT_S = 120.0
STOP_WAIT_S = 30.0

FIRST_ID = 2**53 + 1
"""Of the ids: no browser's number holds it."""

TYPES = {
    "ts": "timestamp without time zone",
    "ts0": "timestamp(0)",
    "ts3": "timestamp(3) without time zone",
    "tz": "timestamp with time zone",
    "day": "date",
    "clock": "time",
    "clock3": "time(3) without time zone",
    "single": "real",
    "double": "double precision",
    "raw": "bytea",
    "small": "smallint",
    "great": "bigint as text",
    "yes": "boolean",
    "short": "varchar(20)",
    "padded": "character(5)",
    "money": "numeric(18,4)",
    "branch": "uuid",
    "address": "inet",
    "network": "cidr",
    "mac": "macaddr",
    "mac8": "macaddr8",
}
"""Per column, its type as the view declares it; the table has the same."""

INSTANTS = (
    *("2024-01-01 10:00:00.123456", "infinity", "-infinity", "4714-11-24 BC", "294246-12-31 23:59:59.999"),
    *("2262-04-11 23:47:16.8252", "1677-09-21 00:12:43.145", "10000-01-01", "0044-03-15 12:00:00.5 BC"),
    *("1582-10-10 12:00:00", "1969-12-31 23:59:59.999999", "0001-01-01"),
)
TIMES = ("24:00:00", "00:00:00", "23:59:59.999999", "12:34:56.7", "10:00:00", "00:00:00.000001")
DATES = (
    "2024-02-29",
    "infinity",
    "-infinity",
    "5874897-12-31",
    "0001-01-01",
    "1582-10-04",
    "1582-10-15",
    "1970-01-01",
)
SHIFTED_DATES = ("0001-12-31 BC", "4713-01-01 BC", "0044-03-15 BC", "1582-10-05", "1582-10-14")
"""What a snapshot sends wrong (`doctor` asks for it), and the stream right."""
DOUBLES = (
    *("0.1", "1e15", "123456789012345", "1e16", "NaN", "Infinity", "-Infinity", "-0", "5e-324", "1e-5", "0.0001"),
    *(
        "1.7976931348623157e308",
        "18014398509481992",
        "18014398509481988",
        "1e22",
        "1e23",
        "9007199254740993",
        "1e100",
    ),
    *("2.2250738585072014e-308", "123456.789", "9223372036854775807", "100"),
)
SINGLES = (
    *(
        "0.1",
        "1e6",
        "123456",
        "1234567",
        "NaN",
        "Infinity",
        "-Infinity",
        "-0",
        "1e-45",
        "3.4028235e38",
        "16777216",
    ),
    *("33554434", "1e-5", "1.17549435e-38", "9.8607613e-32", "8388608.5", "67108864", "0.3"),
)
VALUES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ts", "ts0", "ts3", "tz"), INSTANTS),
    "day": DATES,
    "clock": TIMES,
    "clock3": TIMES,
    "single": SINGLES,
    "double": DOUBLES,
    "raw": ("\\x", "\\x00ff10", "\\x" + "ab" * 3000, "\\x5c78"),
    "small": ("-32768", "32767"),
    "great": ("9223372036854775807", "-9223372036854775808", "9007199254740993", "0"),
    "yes": ("true", "false"),
    "short": ("", "é", "x" * 20),
    "padded": ("ab", ""),
    "money": ("1.5", "-99999999999999.9999", "NaN", "0"),
    "branch": ("0000000A-0000-4000-8000-00000000000B",),
    "address": ("192.168.0.1", "192.168.0.1/24", "::1", "fe80::1/64"),
    "network": ("192.168.0.0/24", "::/0"),
    "mac": ("08002b:010203",),
    "mac8": ("08:00:2b:01:02:03:04:05",),
}

VIEW_TOML = "\n".join(
    [
        'name = "types"\n[root]\ntable = "samples"\nkey = "user_id"\n[root.columns]',
        'user_id = { name = "userId", type = "int8 as text" }',
        *(f'{name} = {{ name = "{name}", type = "{kind}" }}' for name, kind in TYPES.items()),
        '[list]\norder = "ts"\nfields = ["userId", "great"]\nfilters = ["branch", "day", "great"]',
    ]
)


def shown(column: str, text: str | None) -> object:
    """What an answer shows of what PostgreSQL prints."""
    if text is None:
        return None
    if column in ("ts", "ts0", "ts3", "tz"):
        return text.replace(" ", "T", 1).replace("+00", "Z") if "infinity" not in text else text
    if column == "small":
        return int(text)
    return text == "t" if column == "yes" else text


@dataclass
class Site:
    """The pipeline, and a kycache that reads from it."""

    stack: Stack
    client: httpx.Client
    configuration: Path
    ids: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Of the samples: column and value."""

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.stack.dsn, autocommit=True) as db:
            found = db.execute(statement.encode(), values)
            return found.fetchall() if found.description else []

    def insert(self, values: dict[str, tuple[str, ...]]) -> list[int]:
        """A row for each value; their ids."""
        made = []
        with psycopg.connect(self.stack.dsn, autocommit=True) as db:
            for column, texts in values.items():
                for text in texts:
                    number = FIRST_ID + len(self.ids)
                    db.execute(f"INSERT INTO samples(user_id, {column}) VALUES (%s, %s)".encode(), [number, text])
                    self.ids[number] = column, text
                    made.append(number)
        return made

    def differences(self, numbers: list[int], *, altered: bool = False) -> list[str]:
        """Where answers show other values than PostgreSQL prints.

        Args:
            altered: a column was given another type, so that every answer is suspect.
        """
        # By the types' output functions, as clients see them; a cast to text may print otherwise.
        columns = ", ".join(f"CASE WHEN {name} IS NOT NULL THEN format('%%s', {name}) END" for name in TYPES)
        found = []
        (token,) = self.sql("SELECT pg_current_wal_insert_lsn()::text")[0]
        for number, *texts in self.sql(f"SELECT user_id, {columns} FROM samples WHERE user_id = ANY(%s)", numbers):
            expected = {name: shown(name, text) for name, text in zip(TYPES, texts, strict=True)}
            answer = self.client.get(f"/users/{number}", headers={"Kycache-Min-LSN": token}).raise_for_status()
            assert ("Kycache-Suspect" in answer.headers) == altered
            answered = answer.json()
            if answered != {"userId": str(number), **expected}:
                column, text = self.ids[number]
                found.append(f"{column} {text!r}: {answered[column]!r}, not {expected[column]!r}")
        return found


def sources() -> str:
    """The table's columns as SQL declares them."""
    return ", ".join(f"{name} {kind.removesuffix(' as text')}" for name, kind in TYPES.items())


@contextmanager
def served(configuration: Path, port: int, log: Path) -> Iterator[httpx.Client]:
    """`kycache node`, ready."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*KYCACHE, "--config", str(configuration), "node"], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=30) as client:

            def ready() -> bool:
                assert process.poll() is None, log.read_text(encoding="utf-8")
                with suppress(httpx.TransportError):
                    return client.get("/readyz").status_code == 200
                return False

            wait_until(ready, "kycache is not ready", READY_WAIT_S)
            yield client
    finally:
        process.terminate()
        process.wait(STOP_WAIT_S)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Samples that a snapshot brought, and everything running."""
    folder = tmp_path_factory.mktemp("types")
    folder.chmod(0o711)  # run by root, PostgreSQL has another account
    *ports, http = free_ports(5)
    layout = Layout(folder, Ports(*ports), new_password(), 2)
    (folder / "view.toml").write_text(VIEW_TOML, encoding="utf-8")
    configuration = folder / "kycache.toml"
    with open_stack(Kind.EMBEDDED, layout, parse_view(VIEW_TOML, "view.toml")) as stack:
        stack.start_servers()
        configuration.write_text(
            f"[data]\ndir = 'data'\n[view]\nfile = 'view.toml'\n[kafka]\nbootstrap = '{layout.bootstrap}'\n"
            f"topic = '{TOPIC}'\n[source]\ndsn = '{stack.dsn}'\n[http]\nport = {http}\n",
            encoding="utf-8",
        )
        made = Site(stack, httpx.Client(), configuration)
        made.sql(f"CREATE TABLE samples (user_id bigint PRIMARY KEY, {sources()})")
        made.insert(VALUES)
        stack.start_debezium()
        with served(configuration, http, folder / "node.log") as client:
            made.client = client
            yield made


def test_a_snapshot_prints_as_postgres_does(site: Site) -> None:
    assert site.differences(list(site.ids)) == []


def test_the_stream_prints_as_postgres_does(site: Site) -> None:
    added = site.insert({**VALUES, "day": (*DATES, *SHIFTED_DATES)})
    assert site.differences(added) == []
    site.sql("UPDATE samples SET small = 7 WHERE user_id = ANY(%s)", added)
    assert site.differences(added) == []


def test_a_precision_that_changes_in_mid_stream(site: Site) -> None:
    """The unit of times is the log's, not the column's: neither the view nor the log says that it changed."""
    for column, value in (
        ("ts3", "2024-01-01 10:00:00.123456"),
        ("ts", "2024-01-01 10:00:00.123456"),
        ("ts0", "infinity"),
        ("clock3", "24:00:00"),
        ("clock", "12:34:56.789"),
    ):
        kind = column.rstrip("03").replace("clock", "time").replace("ts", "timestamp")
        (number,) = site.insert({column: (value,)})
        for precision in ("(6)", "(3)", "(0)", ""):
            site.sql(f"ALTER TABLE samples ALTER COLUMN {column} TYPE {kind}{precision}")
            site.sql(f"UPDATE samples SET small = 1 WHERE user_id = {number}")
            assert site.differences([number], altered=True) == []
            site.sql(f"UPDATE samples SET {column} = '{value}' WHERE user_id = {number}")
            assert site.differences([number], altered=True) == []


def test_ids_beyond_a_browsers_numbers(site: Site) -> None:
    """Strings in answers, whole numbers in paths, keys, order and cursors."""
    number = next(iter(site.ids))
    answer = site.client.get(f"/users/{number}")
    assert f'"userId":"{number}"' in answer.text
    assert site.client.get(f"/users/0{number}").status_code == 400
    walked, url = [], "/users?size=7"
    while url:
        body = site.client.get(url).raise_for_status().json()
        walked += [row["userId"] for row in body["data"]]
        url = body["page"]["next"] and f"/users?cursor={body['page']['next']}"
    rows = site.sql("SELECT user_id::text FROM samples ORDER BY ts DESC, user_id DESC")
    assert walked == [row[0] for row in rows]
    profile = site.client.get("/openapi.json").json()["components"]["schemas"]["Profile"]["properties"]
    assert profile["userId"]["type"] == "string"
    assert profile["great"]["type"] == ["string", "null"]
    assert profile["small"]["type"] == ["integer", "null"]


def test_filters_on_uuid_and_date_and_long_numbers(site: Site) -> None:
    branch = "0000000A-0000-4000-8000-00000000000B"
    for name, value in (
        ("branch", branch),
        ("day", "infinity"),
        ("day", "2024-02-29"),
        ("great", "9007199254740993"),
    ):
        answer = site.client.get("/users", params={name: value, "size": "500"}).raise_for_status()
        rows = site.sql(f"SELECT user_id::text FROM samples WHERE {name} = %s::{TYPES[name].split()[0]}", value)
        assert {row["userId"] for row in answer.json()["data"]} == {row[0] for row in rows} != set()


def test_a_time_that_debezium_loses_is_in_doubt(site: Site) -> None:
    """A `timestamp` above 294247, whatever its precision, as ever."""
    for column in ("ts", "ts3", "ts0"):
        (number,) = site.insert({column: ("294276-12-31 23:59:59",)})
        (token,) = site.sql("SELECT pg_current_wal_insert_lsn()::text")[0]
        answer = site.client.get(f"/users/{number}", headers={"Kycache-Min-LSN": token})
        assert answer.headers["Kycache-Suspect"] == "true"
        site.sql("DELETE FROM samples WHERE user_id = %s", number)


def test_floats_that_postgres_is_asked_about(site: Site) -> None:
    """The notation of many more numbers than are worth a row: any bits, and those at half-way points."""
    rng = random.Random(12)
    doubles = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(4000)]
    doubles += [float(rng.randrange(2**53, 2**60) // 10**n * 10**n) for n in range(8) for _ in range(300)]
    doubles += [2.0**n for n in range(-1074, 1024)] + [10.0**n for n in range(-307, 309)]
    singles = [struct.unpack("<f", rng.randbytes(4))[0] for _ in range(4000)]
    singles += [2.0**n for n in range(-149, 128)]
    singles += [float(struct.unpack("<f", struct.pack("<f", rng.randrange(2**24, 2**40)))[0]) for _ in range(2000)]
    for kind, numbers, printed in (("float8", doubles, print_float8), ("float4", singles, print_float4)):
        finite = [number for number in numbers if number - number == 0]
        rows = site.sql(f"SELECT v, v::text FROM unnest(%s::float8[]::{kind}[]) v", finite)
        assert [text for _, text in rows if text in ("NaN", "Infinity")] == []
        wrong = [(number, text) for number, (_, text) in zip(finite, rows, strict=True) if printed(number) != text]
        assert wrong == []


def status(site: Site) -> list[dict[str, Any]]:
    """The shards, as `kycache status` shows them."""
    command = [*KYCACHE, "--config", str(site.configuration), "status", "--json"]
    shards: list[dict[str, Any]] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[
        "shards"
    ]
    return shards


def test_nothing_was_set_aside_but_what_was_meant_to_be(site: Site) -> None:
    assert sum(shard["quarantined"] for shard in status(site)) <= 3


def test_a_connector_that_changes_the_unit_halts_the_shards(site: Site) -> None:
    """The last test here: no log is read in two units."""
    layout, stack = site.stack.layout, site.stack
    stack.debezium.stop()
    stack.debezium.wait_stopped()
    adaptive = replace(layout.connector, times=TimePrecision.ADAPTIVE)
    other = embedded.debezium(layout, connector_config(stack.view, adaptive))
    with stopping(other):
        other.start()
        wait_until(
            lambda: all(
                "time.precision.mode=microseconds" in (shard.get("reason") or "") for shard in status(site)
            ),
            "not every shard halts",
            READY_WAIT_S,
        )
