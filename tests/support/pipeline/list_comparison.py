"""Every page and walk of the list over HTTP against SQL on the source: at rest exactly, and while writes run.

    PYTHONPATH=tests python tests/support/pipeline/list_comparison.py --users 20000 --seconds 120

starts a demo of its own and prints what it compared and what differed. Held out: it shares nothing with kycache
but HTTP; the order, the filters and the rows are PostgreSQL's own.

While writes run no page is of one moment of the source (each shard is at its own), so what is compared is what
holds all the same: whoever was touched by no transaction since SQL was read stands in every walk exactly once, in
SQL's order and with SQL's row, however the list is walked; and on a page by number no farther from its place than
users were touched.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg

from support.pipeline.sql_truth import STATUSES, SqlTruth, wait_fresh

TOUCHED = """
CREATE TABLE IF NOT EXISTS touched (user_id uuid, by xid8 DEFAULT pg_current_xact_id());
CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN INSERT INTO touched VALUES (OLD.user_id); END IF;
    IF TG_OP <> 'DELETE' THEN INSERT INTO touched VALUES (NEW.user_id); END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER touched AFTER INSERT OR UPDATE OR DELETE ON users FOR EACH ROW EXECUTE FUNCTION touch();
CREATE OR REPLACE TRIGGER touched AFTER INSERT OR UPDATE OR DELETE ON kyc_records
    FOR EACH ROW EXECUTE FUNCTION touch();
"""
"""Who was touched by which transaction. The publication does not cover it."""

PAGES_MAX = 1_000
"""Of one list in one size: what would be more is compared in larger pages only."""

PAGES_BY_NUMBER = 5
"""Of each list that is walked while writes run."""

WAYS = ("forward", "back")
Row = dict[str, Any]


class Asked(NamedTuple):
    """One list: its filters and its order."""

    status: str | None
    region: str | None
    order: str

    def query(self, size: int) -> dict[str, str]:
        """Its parameters."""
        given = {"size": str(size), "order": self.order, "kycStatus": self.status, "region": self.region}
        return {name: value for name, value in given.items() if value is not None}

    def rows(self, truth: SqlTruth) -> list[Row]:
        """What SQL says that it holds."""
        users = truth.order if self.order == "newest" else reversed(truth.order)
        return [
            truth.row(user)
            for user in users
            if (self.status is None or truth.status(user) == self.status)
            and (self.region is None or truth.users[user][11] == self.region)
        ]


def every_list(truth: SqlTruth) -> list[Asked]:
    """Every filter, every pair of them, none, in both orders."""
    regions = [None, *sorted({r[11] for r in truth.users.values() if r[11] is not None})]
    return [Asked(*asked) for asked in product([None, *STATUSES], regions, ["newest", "oldest"])]


class ListComparison:
    """Compares lists, and counts what it compared."""

    def __init__(self, client: httpx.Client, dsn: str) -> None:
        self.compared: Counter[str] = Counter()
        self._client = client
        self._dsn = dsn

    def watch(self) -> None:
        """Have the source write down who is touched. Before others write: it takes the tables' locks."""
        with psycopg.connect(self._dsn, autocommit=True) as db:
            db.execute(TOUCHED.encode())

    def at_rest(self, truth: SqlTruth, sizes: Iterable[int]) -> Iterator[str]:
        """Differences where nobody writes: every page of every list in every size, walks there and back."""
        wait_fresh(self._client, truth.lsn)
        for asked, size in product(every_list(truth), sizes):
            rows = asked.rows(truth)
            if len(rows) <= size * PAGES_MAX:
                yield from self._pages(asked, size, rows)
                for way, walked in zip(WAYS, self._there_and_back(asked, size), strict=True):
                    if walked != rows:
                        yield f"walk {way} of {asked} in {size}: {_first_difference(walked, rows)}"

    def under_writes(self, rng: random.Random, size: int, lists: int = 1) -> Iterator[str]:
        """Differences of some lists while others write; after `watch`."""
        with psycopg.connect(self._dsn, autocommit=True) as db:
            truth = SqlTruth.read(self._dsn)
            wait_fresh(self._client, truth.lsn)
            for asked in rng.sample(every_list(truth), lists):
                rows = asked.rows(truth)
                numbered = self._some_pages(rng, asked, size, len(rows))
                walks = self._there_and_back(asked, size)
                # Whatever an answer held was committed before it, so it is in here.
                touched = {
                    str(user)
                    for (user,) in db.execute(
                        "SELECT DISTINCT user_id FROM touched"
                        " WHERE NOT pg_visible_in_snapshot(by, %s::pg_snapshot)",
                        [truth.snapshot],
                    )
                }
                self.compared["touched users"] += len(touched)
                still = [row for row in rows if row["userId"] not in touched]
                for way, walked in zip(WAYS, walks, strict=True):
                    kept = [row for row in walked if row["userId"] not in touched]
                    self.compared["rows under writes"] += len(kept)
                    if kept != still:
                        yield f"walk {way} of {asked} in {size} under writes: {_first_difference(kept, still)}"
                places = {row["userId"]: place for place, row in enumerate(still)}
                for place, row in numbered:
                    if row["userId"] in touched:
                        continue
                    self.compared["rows under writes"] += 1
                    # Among the untouched it moved not at all; all it can be moved by are the touched.
                    at = places.get(row["userId"])
                    if at is None or not at <= place <= at + len(touched):
                        yield f"place {place} of {asked} in {size} under writes: {row['userId']} is at {at} in SQL"

    def _get(self, parameters: dict[str, str]) -> dict[str, Any]:
        answer = self._client.get("/users", params=parameters)
        assert answer.status_code == 200, f"{parameters}: {answer.status_code} {answer.text}"
        body: dict[str, Any] = answer.json()
        return body

    def _pages(self, asked: Asked, size: int, rows: list[Row]) -> Iterator[str]:
        """Each by its number, and one past the end."""
        for number in range(1, len(rows) // size + 3):
            body = self._get({**asked.query(size), "page": str(number)})
            wanted = rows[(number - 1) * size : number * size]
            self.compared["pages"] += 1
            page = body["page"]
            links = (page["next"] is not None, page["prev"] is not None)
            if body["data"] != wanted or (page["number"], page["total"]) != (number, len(rows)):
                yield f"page {number} of {asked} in {size}: {page}, {len(rows)} in SQL"
            elif links != (number * size < len(rows), number > 1 and bool(rows)):
                yield f"page {number} of {asked} in {size}: wrong links {links}"

    def _there_and_back(self, asked: Asked, size: int) -> tuple[list[Row], list[Row]]:
        """The rows of a walk by `next` to the end, and by `prev` back to the start."""
        body = self._get(asked.query(size))
        pages = [body["data"]]
        while body["page"]["next"]:
            body = self._get({"cursor": body["page"]["next"]})
            pages.append(body["data"])
        back = [body["data"]]
        while body["page"]["prev"]:
            body = self._get({"cursor": body["page"]["prev"]})
            back.append(body["data"])
            assert len(back) < len(pages) + PAGES_MAX, f"walking {asked} back does not end"
        self.compared["pages"] += len(pages) + len(back)
        self.compared["walks"] += 2
        return [row for page in pages for row in page], [row for page in reversed(back) for row in page]

    def _some_pages(self, rng: random.Random, asked: Asked, size: int, total: int) -> list[tuple[int, Row]]:
        """The rows of some pages by number, each with its place in the list."""
        found = []
        for _ in range(PAGES_BY_NUMBER):
            front = rng.randrange(total // size + 1) * size
            data = self._get({**asked.query(size), "page": str(front // size + 1)})["data"]
            found += list(enumerate(data, front))
            self.compared["pages"] += 1
        return found


def _first_difference(found: Sequence[Row], wanted: Sequence[Row]) -> str:
    place = next((n for n, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), None)
    if place is None:
        return f"{len(found)} rows, {len(wanted)} in SQL"
    return f"row {place} is {found[place]}, in SQL {wanted[place]}; {len(found)} rows, {len(wanted)} in SQL"


def main() -> int:
    # Here, as the tests that compare a little have a demo of theirs.
    from kycache.demo.servers.ports import free_ports
    from support.pipeline.running_demo import running_demo
    from support.pipeline.workload import Workload

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--stack", default="embedded")
    parser.add_argument("--seconds", type=float, default=120.0, help="of walks while others write")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 7, 50, 97, 500])
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    differences: list[str] = []
    arguments = ("--stack", given.stack, "--users", str(given.users), "--port", str(free_ports(1)[0]))
    with (
        tempfile.TemporaryDirectory() as folder,
        running_demo(Path(folder), *arguments) as demo,
        demo.client() as client,
    ):
        comparison = ListComparison(client, demo.dsn)
        comparison.watch()
        deadline, round_ = time.monotonic() + given.seconds, 0
        while time.monotonic() < deadline:
            load = Workload(demo.dsn, given.seed + round_, transactions=1_000).start()
            while load.running and time.monotonic() < deadline:
                differences += comparison.under_writes(rng, rng.choice(given.sizes[1:]))
            load.join()
            round_ += 1
        print(f"under writes, {round_} workloads: {dict(comparison.compared)}", flush=True)
        differences += comparison.at_rest(SqlTruth.read(demo.dsn), given.sizes)
    print(f"in all: {dict(comparison.compared)}; {len(differences)} differences")
    print("\n".join(differences[:20]))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
