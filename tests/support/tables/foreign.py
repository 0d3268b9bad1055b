"""Somebody else's tables in one shard: a view of a few lines, records as Debezium sends them, what clients see."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kycache.actors.order.reader import page, total
from kycache.ingest.decoding.decode import Record, RecordDecoder
from kycache.model.change import Item
from kycache.model.definition import parse_view
from kycache.model.partition import KeyForm
from kycache.model.values import decoder, key_order_bytes
from kycache.model.view import View
from support.shards import ShardUnderTest


def definition_of(
    key: str, *columns: str, child: str = "", rest: str = "", listed: str = "id", filters: str = ""
) -> str:
    """The definition of a view of table `u`, keyed by `id`, and of its child `c`, whose owner is `uid`.

    Args:
        key: the type of `id`.
        columns: more columns of the root, as lines of TOML.
        child: lines of the child's columns; empty: no child.
        rest: what else the definition says.
        listed: the list's fields, by commas; `filters` likewise.
    """
    lines = [
        'name = "foreign"',
        *("[root]", 'table = "u"', 'key = "id"', "[root.columns]"),
        f'id = {{ name = "id", type = "{key}" }}',
        'at = { name = "at", type = "timestamp" }',
        *columns,
    ]
    if child:
        lines += ["[[children]]", 'table = "c"', 'name = "cs"', 'key = "cid"', 'owner = "uid"']
        lines += ["[children.columns]", 'cid = { name = "cid", type = "int" }', child]
    lines += [rest, "[list]", 'order = "at"', f"fields = {json.dumps(listed.split(','))}"]
    lines += [f"filters = {json.dumps(filters.split(',') if filters else [])}"]
    return "\n".join(lines)


def view_of(key: str, *columns: str, **more: str) -> View:
    """The view that `definition_of` says."""
    return parse_view(definition_of(key, *columns, **more), "foreign.toml")


def envelope(op: str, table: str, after: Any = None, before: Any = None, *, lsn: int = 1000) -> bytes:
    """A streamed event as Debezium writes it."""
    source = {"ts_ms": 7, "snapshot": "false", "sequence": f'["{lsn - 5}","{lsn}"]', "lsn": lsn, "txId": 9}
    value = {"before": before, "after": after, "source": {**source, "table": table}, "op": op}
    return json.dumps(value).encode()


class Foreign:
    """A shard that is the only one, and what decodes its records."""

    def __init__(self, folder: Path, view: View, form: KeyForm = KeyForm.PLAIN) -> None:
        self.shard = ShardUnderTest(folder, view)
        self.decoder = RecordDecoder(view, form)
        self.offset = 0
        self.items: list[Item] = []

    def send(
        self,
        op: str,
        table: str,
        key: object,
        after: Any = None,
        before: Any = None,
        *,
        kafka_key: str | None = None,
    ) -> Item:
        """One event, applied. `key`: the user id as Debezium writes it into a plain key."""
        self.offset += 1
        value = envelope(op, table, after, before, lsn=1000 + 10 * self.offset)
        text = str(key) if kafka_key is None else kafka_key
        item = self.decoder.decode(Record(self.offset, 0, text.encode(), value))
        self.items.append(item)
        self.shard.apply([item])
        return item

    def root(self, key: object, **columns: Any) -> Item:
        """A user is inserted."""
        return self.send("c", "u", key, {"id": key, "at": 5, **columns})

    def child(self, cid: int, owner: object, **columns: Any) -> Item:
        """A row of the child table is inserted."""
        return self.send("c", "c", owner, {"cid": cid, "uid": owner, **columns})

    def body(self, key: object) -> bytes | None:
        """The 200 body of a user, by the id as the decoder takes it; None for a 404."""
        user = key_order_bytes(decoder(self.shard.view.root.key_type)(key))
        with self.shard.snapshot() as snapshot:
            profile = snapshot.profile(user)
            return None if profile is None or not profile.exists else self.shard.renderer.body(profile)

    def rows(self) -> list[bytes]:
        """The list, newest first, as its bytes."""
        where = (None,) * len(self.shard.view.filters)
        with self.shard.snapshot() as snapshot:
            count = total([snapshot.order], where)
            return [row for _, row in page([snapshot.order], where, newest=True, skip=0, size=count)]


@contextmanager
def foreign(folder: Path, view: View, form: KeyForm = KeyForm.PLAIN) -> Iterator[Foreign]:
    """A stand, closed as every shard must be left."""
    stand = Foreign(folder, view, form)
    try:
        yield stand
    finally:
        stand.shard.close()
