"""The promises, as checks: of a shard against its model, of a claim against the source, of the end against SQL."""

from bisect import bisect_left
from itertools import product

import msgspec

from kycache.actors.order.layout import IndexDiffers
from kycache.actors.order.reader import page, total
from kycache.actors.order.recount import check
from kycache.actors.reader import ShardSnapshot
from kycache.actors.rules.state import ShardState
from kycache.model.profile import Profile
from kycache.model.render import Renderer
from kycache.model.values import uuid_bytes
from kycache.model.view import View
from simulation.log import Log
from simulation.model import ShardModel
from simulation.seams import Violation
from support.pipeline.fake_source import REGIONS, STATUSES, FakeSource


def require(holds: bool, what: str) -> None:
    """Raises Violation where it does not hold."""
    if not holds:
        raise Violation(what)


def check_state(shard: int, state: ShardState, model: ShardModel) -> None:
    """What a shard knows of itself, against the model at the same position."""
    found = {
        "bootstrapped": (state.bootstrapped, model.bootstrapped),
        "watermark": (state.watermark, model.watermark),
        "as-of": (state.as_of_ms, model.as_of_ms),
        "users": (state.users, model.users),
        "suspects": (state.suspects, sum(bool(s) for s in model.suspicions.values())),
        "quarantined": (state.quarantined, len(model.quarantine)),
        "doubts": (state.doubts, model.doubts),
        "altered": (state.altered is not None, model.altered is not None),
    }
    for name, (is_, should) in found.items():
        require(is_ == should, f"shard {shard}: {name} is {is_}, must be {should}, at {model.position}")


def check_profile(shard: int, user: bytes, profile: Profile | None, model: ShardModel) -> None:
    """One user, against the model at the same position."""
    rows = {} if profile is None else {(t, k): r.values for t, k, r in profile.rows() if r.values is not None}
    should = model.living(user)
    where = f"shard {shard} at {model.position}: user {user.hex()}"
    require(
        rows.keys() == should.keys(), f"{where} has rows {sorted(rows, key=repr)}, must {sorted(should, key=repr)}"
    )
    differ = [row for row in rows if rows[row] != should[row]]
    require(not differ, f"{where}: rows {differ} have other values than they must")
    suspect = profile is not None and bool(profile.suspicions)
    require(suspect == bool(model.suspicions.get(user)), f"{where}: suspect is {suspect}, must not")


def check_index(shard: int, snapshot: ShardSnapshot, view: View) -> None:
    """The index says what the rows say, and counts the users."""
    try:
        check(snapshot.order)
    except IndexDiffers as error:
        raise Violation(f"shard {shard}: {error}") from error
    listed = total([snapshot.order], (None,) * len(view.filters))
    require(listed == snapshot.state.users, f"shard {shard}: {listed} listed, {snapshot.state.users} counted")


class Promise:
    """What a watermark promises: every transaction committed at or below it is in."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._firsts: list[list[tuple[int, int]]] = [[] for _ in log.partitions]
        """Per partition, (offset, end of its transaction) of what the source streamed, where it first came."""
        self._known: list[set[int]] = [set() for _ in log.partitions]
        self._snapshots: list[list[tuple[int, int]]] = [[] for _ in log.partitions]
        """Per partition, (offset behind a whole snapshot, the end of the first transaction that only it tells)."""
        self._ends = [0 for _ in log.partitions]
        self._lost = 0

    def heard(self, *, whole: bool) -> None:
        """The log has grown; `whole`: up to the end of a whole snapshot."""
        for shard, records in enumerate(self._log.partitions):
            for offset in range(self._ends[shard], len(records)):
                sent = records[offset]
                if sent.kind == "streamed" and sent.order not in self._known[shard]:
                    self._known[shard].add(sent.order)
                    self._firsts[shard].append((offset, sent.commit))
            self._ends[shard] = len(records)
        if whole:
            lost = self._log.source.lost
            for shard, end in enumerate(self._ends):
                commits = [sent.commit for sent in lost[self._lost :] if sent.partition == shard]
                if commits:
                    self._snapshots[shard].append((end, min(commits)))
            self._lost = len(lost)

    def check(self, shard: int, state: ShardState) -> None:
        """Nothing that the shard has not read was committed at or below its watermark."""
        if not state.bootstrapped:
            return
        position = state.position.offset
        unread = [commit for end, commit in self._snapshots[shard] if end > position]
        at = bisect_left(self._firsts[shard], (position, 0))
        if at < len(self._firsts[shard]):
            unread.append(self._firsts[shard][at][1])
        require(
            state.watermark < min(unread, default=state.watermark + 1),
            f"shard {shard} at {position}: watermark {state.watermark}, and a transaction that ended at "
            f"{min(unread, default=0)} is not in",
        )


def check_sql(source: FakeSource, snapshots: list[ShardSnapshot], view: View) -> None:
    """Every profile, list, total and filter is what SQL says."""
    renderer = Renderer(view)
    listed = source.listing()
    for row in listed:
        key = uuid_bytes(row["userId"])
        profiles = [profile for s in snapshots if (profile := s.profile(key)) is not None and profile.exists]
        require(len(profiles) == 1, f"user {row['userId']} is in {len(profiles)} shards")
        is_, should = renderer.body(profiles[0]), source.profile(row["userId"])
        require(decoded(is_) == should, f"user {row['userId']} is {is_!r}, must be {should}")
    orders = [snapshot.order for snapshot in snapshots]
    for region, status in product((None, *REGIONS[:3]), (None, *STATUSES, "NONE")):
        where = {"region": region, "kycStatus": status}
        should_list = [
            {k: v for k, v in row.items() if k != "region"}
            for row in listed
            if region in (None, row["region"]) and status in (None, row["kycStatus"])
        ]
        values = tuple(None if (v := where[f.name]) is None else v.encode() for f in view.filters)
        count = total(orders, values)
        require(count == len(should_list), f"{where}: {count} in total, must be {len(should_list)}")
        rows = page(orders, values, newest=True, skip=0, size=count) if count else []
        require([decoded(r) for _, r in rows] == should_list, f"{where}: the list is another than SQL's")


def decoded(body: bytes) -> object:
    """JSON."""
    return msgspec.json.decode(body)
