"""What the lines of DEBEZIUM.md say, in the captured events.

The scenarios they speak of are functions in `capture/scenarios.py`.
"""

import json
from collections import defaultdict

from kycache.actors.rules.freshness import Limits, freshness
from kycache.actors.rules.standing import Facts, Standing, status
from kycache.ingest.decoding.decode import RecordDecoder
from kycache.model.change import Change, Poison
from kycache.model.definition import parse_view
from kycache.model.partition import partition_of
from kycache.model.view import HEARTBEAT_TABLE
from support.pipeline.captured import (
    ALTERED,
    BORN,
    LOST,
    PARTITIONS,
    VIEW_TOML,
    Captured,
    Cluster,
    Scenario,
    all_scenarios,
    everything,
    scenarios,
)


def in_order(scenario: Scenario, *, table: str = "") -> list[Captured]:
    """Streamed changes of the view's tables, as Debezium emitted them: by transaction, then by LSN."""
    changes = [c for c in scenario.records if c.streamed and c.table != HEARTBEAT_TABLE]
    return sorted(
        (c for c in changes if c.table == (table or c.table)), key=lambda c: (c.sequence[0] or 0, c.sequence[1])
    )


def identity(captured: Captured) -> str:
    """The same for a change and for its redelivery."""
    event = captured.event
    assert event is not None
    source = event["source"]
    return json.dumps([source["sequence"], source["table"], event["op"], event["before"], event["after"]])


def test_line_1_a_killed_connector_delivers_again(cluster: Cluster) -> None:
    killed = scenarios()["connector-killed"]
    changes = [identity(c) for c in killed.records if c.streamed]
    assert len(set(changes)) < len(changes)
    for scenario in scenarios().values():
        for p in range(PARTITIONS):
            before = cluster.shards[p].state.counters.stale
            cluster.deliver(p, scenario.of(p))
            # Stale, because a later change of the row had been applied before the kill.
            if scenario.name == killed.name and p == 0:
                assert cluster.shards[p].state.counters.stale > before
        if scenario.name == killed.name:
            cluster.check(scenario)
            break


def test_line_1_a_connector_killed_inside_a_truncating_transaction(cluster: Cluster) -> None:
    """The keyless event came, the connector died, went back to an earlier transaction and sent all of it again."""
    for scenario in scenarios().values():
        for p in range(PARTITIONS):
            records = scenario.of(p)
            at = next((n for n, c in enumerate(records) if c.op == "t"), None)
            if at is not None:
                cluster.deliver(p, records[: at + 1])
            cluster.deliver(p, records)
        cluster.check(scenario)


def test_line_2_the_first_transaction_after_a_whole_snapshot_has_no_last_commit() -> None:
    for name in ("initial", "re-snapshot"):
        streamed = [c for c in scenarios()[name].records if c.streamed]
        after = [c for c in streamed if c.sequence[0] is None]
        assert after
        assert len({c.tx for c in after}) == 1
        (snapshot,) = {c.sequence[1] for c in scenarios()[name].records if c.op == "r"}
        assert all(c.sequence[1] >= snapshot for c in after)


def test_line_3_lsns_interleave_and_only_the_pair_is_ordered() -> None:
    """In the order of commits, LSNs of concurrent transactions go back; in each partition, the pair never does."""
    for name in ("interleaved", "long-transaction"):
        scenario = scenarios()[name]
        lsns = [c.sequence[1] for c in in_order(scenario)]
        assert lsns != sorted(lsns)
        back = 0
        for p in range(PARTITIONS):
            pairs = [(c.sequence[0] or 0, c.sequence[1]) for c in scenario.of(p) if c.streamed]
            assert pairs == sorted(pairs)
            arrived = [lsn for _, lsn in pairs]
            back += arrived != sorted(arrived)
        assert back


def test_line_4_rows_of_a_copy_share_an_lsn() -> None:
    lsns = [c.sequence[1] for c in in_order(scenarios()["copied"], table="users")]
    assert len(lsns) == 8
    assert len(set(lsns)) == 1


def test_lines_5_and_21_snapshot_markers_land_on_some_partition() -> None:
    rows = [c for c in scenarios()["initial"].records if c.op == "r"]
    assert {c.event["source"]["snapshot"] for c in rows if c.event} <= {
        *("true", "first", "first_in_data_collection", "last_in_data_collection", "last")
    }
    assert len({c.sequence for c in rows}) == 1
    assert rows[0].sequence[0] is None
    assert len({c.partition for c in rows if c.event and c.event["source"]["snapshot"] == "last"}) == 1


def test_line_14_a_moved_child_is_deleted_here_and_created_there() -> None:
    """The same LSN in two partitions; what happens when one is read long before the other is tested above."""
    events = in_order(scenarios()["child-moved"])
    moves = defaultdict(list)
    for captured in events:
        moves[captured.sequence].append(captured)
    assert len(events) == 20
    for deleted, created in moves.values():
        assert {deleted.op, created.op} == {"d", "c"}
    assert any(d.partition != c.partition for d, c in moves.values())


def test_line_14_a_childs_own_key_changes_by_an_update_alone() -> None:
    """Nothing but `before` tells of the former key: there is no delete, since Debezium's key is the user id."""
    events = in_order(scenarios()["child-key-changed"])
    assert [c.op for c in events[:6]] == ["u"] * 6
    assert {c.op for c in events[6:]} == {"d", "c"}  # this one went to another user as well
    formers = [c.item.former for c in events if isinstance(c.item, Change) and c.op == "u"]
    assert len(formers) == 6
    assert None not in formers


def test_line_15_a_changed_user_key_takes_its_children_along() -> None:
    changes = [(c.table, c.op) for c in in_order(scenarios()["user-key-changed"])]
    for table in ("users", "kyc_records", "accounts"):
        assert (table, "d") in changes
        assert (table, "c") in changes
        assert changes.index(("users", "d")) <= changes.index((table, "d"))


def test_line_16_a_delete_reaches_the_children_after_their_user() -> None:
    tables = [c.table for c in scenarios()["deleted-with-cascade"].of(2) if c.op == "d"]
    assert tables[0] == "users"
    assert set(tables) > {"users"}


def test_line_18_a_truncate_is_one_event_and_a_row_in_every_partition() -> None:
    for name, tables in (
        ("truncate-child", {"kyc_records"}),
        ("truncate-insert-truncate", {"accounts", "kyc_records"}),
        ("truncate-insert-truncate-same", {"accounts"}),
        ("truncate-all-and-fill", {"users", "accounts", "kyc_records"}),
        ("truncate-cascade", {"users", "accounts", "kyc_records"}),
    ):
        scenario = scenarios()[name]
        keyless = [c for c in scenario.records if c.op == "t"]
        assert {c.table for c in keyless} == tables
        assert {c.record.key for c in keyless} == {None}
        told = defaultdict[int, set[str]](set)
        for captured in scenario.records:
            if captured.table == HEARTBEAT_TABLE and captured.event:
                truncated = captured.event["after"]["truncated"]
                told[captured.partition] |= set(truncated.split(",") if truncated else ())
        assert dict(told) == dict.fromkeys(range(PARTITIONS), tables)


def test_line_20_what_was_rolled_back_is_not_sent() -> None:
    changes = in_order(scenarios()["savepoints"])
    assert [(c.table, c.op) for c in changes] == [
        *(("users", "u"), ("accounts", "c"), ("users", "u"), ("users", "u")),
    ]
    assert "lost" not in json.dumps([c.event for c in changes])
    assert [c for c in scenarios()["truncate-child"].records if c.op == "t" and c.table == "users"] == []


def test_line_22_a_whole_snapshot_says_deletes_by_absence(cluster: Cluster) -> None:
    scenario = scenarios()["re-snapshot"]
    assert [c for c in scenario.records if c.op == "d"] == []
    for earlier in scenarios().values():
        for p in range(PARTITIONS):
            cluster.deliver(p, earlier.of(p))
        if earlier is scenario:
            break
    cluster.check(scenario)
    assert sum(s.state.counters.swept for s in cluster.shards) > 0


def test_line_22_a_blocking_snapshot_sweeps_nothing(cluster: Cluster) -> None:
    """Its rows have a last commit; the KYC records, which it did not send, stay."""
    scenario = scenarios()["blocking-snapshot"]
    rows = [c for c in scenario.records if c.op == "r"]
    assert rows
    assert all(c.sequence[0] is not None for c in rows)
    assert scenario.rows("kyc_records") == []
    before: list[int] = []
    for earlier in scenarios().values():
        before = [s.state.counters.swept for s in cluster.shards]
        for p in range(PARTITIONS):
            cluster.deliver(p, earlier.of(p))
        if earlier is scenario:
            break
    assert [s.state.counters.swept for s in cluster.shards] == before
    cluster.check(scenario)
    assert any(d["kyc"] for d in scenario.details.values())


def test_line_24_null_is_null_where_the_column_has_a_default() -> None:
    scenario = scenarios()["null-against-default"]
    updated = scenario.rows("users", "u")[0]["after"]
    assert (updated["region"], updated["created_at"]) == (None, None)
    assert scenario.rows("accounts", "u")[0]["after"]["status"] is None
    assert scenario.rows("accounts", "c")[0]["after"]["status"] is None
    snapshot = scenarios()["initial"].rows("users", "r")
    assert None in {row["after"]["region"] for row in snapshot}
    assert None in {row["after"]["created_at"] for row in snapshot}


def test_line_25_numerics_are_texts_with_their_scale() -> None:
    balances = {row["after"]["balance"] for row in scenarios()["numerics"].rows("accounts", "u")}
    assert balances == {"NAN", "0.0000", "-12.3000", "10000000000000.0000", "7.0000"}


def test_lines_26_and_36_times_beyond_the_calendar() -> None:
    users = scenarios()["extreme-values"].rows("users", "c")
    zoned = {row["after"]["updated_at"] for row in users}
    assert {"infinity", "-infinity", "+10000-01-01T00:00:00.000000Z", "-0043-03-15T10:30:00.250000Z"} < zoned
    local = {row["after"]["created_at"] for row in users}
    assert {9223372036825200000, -9223372036832400000, 9223371244799999999} < local


def test_line_36_a_wrapped_timestamp_makes_its_profile_suspect(cluster: Cluster) -> None:
    """Until a later row of the user shows a time that Debezium can say."""
    suspects = {}
    for scenario in scenarios().values():
        for p in range(PARTITIONS):
            cluster.deliver(p, scenario.of(p))
        suspects[scenario.name] = sum(s.state.suspects for s in cluster.shards)
    assert {name for name, count in suspects.items() if count} == {LOST, ALTERED}
    assert sum(s.state.quarantined for s in cluster.shards) == 2


def test_line_37_char_comes_padded_and_dates_may_be_infinite() -> None:
    countries = {row["after"]["country"] for row in scenarios()["padded-and-odd-texts"].rows("users", "u")}
    assert countries == {"F ", "  "}
    births = {row["after"]["date_of_birth"] for row in scenarios()["extreme-values"].rows("users", "c")}
    assert {-2147472692, -2147472691, 2145042905} < births


def test_a_snapshot_does_not_hold_every_date() -> None:
    """The rows of a snapshot go through a Java class without infinity, era and the days that 1582 skipped.

    Seen: the same dates, streamed and then in a whole snapshot. Years before Christ come as years after it, and
    nothing in the row tells them from those.
    """
    births: dict[str, dict[str, int]] = defaultdict(dict)
    scenario = all_scenarios()[BORN]
    for op in ("c", "r"):
        for row in scenario.rows("users", op):
            user = row["after"]["user_id"]
            births[str(scenario.details[user]["dateOfBirth"])][op] = row["after"]["date_of_birth"]
    seen = {text: (ops["c"], ops["r"]) for text, ops in births.items() if len(ops) == 2}
    assert seen == {
        "infinity": (-2147472692, -622191234),
        "-infinity": (-2147472691, -625821272),
        "5874897-12-31": (2145042905, 2145042905),
        "4714-11-24 BC": (-2440588, 1002552),  # 4714-11-24 after Christ
        "0044-03-15 BC": (-735160, -703383),  # 44-03-15 after Christ
        "1582-10-10": (-141432, -141422),  # 1582-10-20
    }


def test_line_37_an_infinite_date_in_a_snapshot() -> None:
    for captured in all_scenarios()[BORN].records:
        if captured.op == "r" and captured.table == "users":
            assert not isinstance(captured.item, Poison)


def test_line_27_json_comes_as_text() -> None:
    text = VIEW_TOML.read_text(encoding="utf-8")
    more = 'extra = { name = "extra", type = "json", privacy = "open" }\n'
    more += 'extrab = { name = "extrab", type = "json", privacy = "open" }\n'
    text = text.replace("[root.columns]\n", f"[root.columns]\n{more}")
    text = text.replace('"createdAt", "updatedAt",', '"createdAt", "updatedAt", "extra", "extrab",')
    decoder = RecordDecoder(parse_view(text, "json.toml"))
    rows = [
        c for c in scenarios()["columns-come-and-go"].records if c.event and c.op == "u" and c.table == "users"
    ]
    event = rows[0].event
    assert event is not None
    assert event["after"]["extra"] == '{"b": [1, 2.50, null], "a": "ü\\n", "a": true}'
    assert event["after"]["extrab"] == '{"a": true, "b": [1, 2.50, null]}'
    item = decoder.decode(rows[0].record)
    assert isinstance(item, Change)
    assert item.values is not None
    stored = {'{"b":[1,2.50,null],"a":"ü\\n","a":true}', '{"a":true,"b":[1,2.50,null]}'}  # without the blanks
    assert stored < set(item.values)


def test_line_28_columns_come_and_go_without_notice(cluster: Cluster) -> None:
    images = [row["after"].keys() for row in scenarios()["columns-come-and-go"].rows("users", "u")]
    assert any("nickname" in image for image in images)
    assert any("address_line2" not in image for image in images)
    for scenario in scenarios().values():
        for p in range(PARTITIONS):
            cluster.deliver(p, scenario.of(p))
    assert sum(s.state.counters.unknown_columns for s in cluster.shards) == 6


def test_line_31_keys_are_plain_user_ids_in_the_partition_of_their_hash() -> None:
    for captured in everything():
        if captured.record.key is not None:
            assert partition_of(captured.record.key, PARTITIONS) == captured.partition
            assert not captured.record.key.startswith(b'"')


def test_line_32_every_partition_has_its_own_beats() -> None:
    for p in range(PARTITIONS):
        beats = [c for c in everything() if c.partition == p and c.table == HEARTBEAT_TABLE]
        assert {c.event["after"]["shard"] for c in beats if c.event} == {p}
        assert len({c.record.key for c in beats}) == 1


def test_line_33_whatever_is_committed_below_the_watermark_is_in(cluster: Cluster) -> None:
    """Record by record: a shard that says W has all of every transaction whose end lies at or below W.

    The end of a transaction lies at or below the last commit that the next one names, and below the token that was
    taken after it.
    """
    changes = [c for c in everything() if c.streamed]
    ends = {tx: token for scenario in scenarios().values() for tx, token in scenario.commits}
    starts = sorted({c.sequence[0] for c in changes if c.sequence[0] is not None})
    started = {c.tx: c.sequence[0] for c in changes}
    for tx, start in ((tx, start) for tx, start in started.items() if start is not None):
        following = next((s for s in starts if s > start), None)
        if following is not None:
            ends[tx] = min(ends.get(tx, following), following)
    for p in range(PARTITIONS):
        records = [c for c in everything() if c.partition == p]
        missing: dict[str, int] = {identity(c): ends[c.tx] for c in records if c.streamed and c.tx in ends}
        asked = 0
        for captured in records:
            cluster.deliver(p, [captured])
            if captured.streamed:
                missing.pop(identity(captured), None)
            watermark = cluster.shards[p].state.watermark
            assert min(missing.values(), default=watermark + 1) > watermark
            asked += 1
        assert asked == len(records)
        assert cluster.shards[p].state.watermark == max(c.sequence[1] for c in records if c.streamed)


# --- without the heartbeat table


def without_beats(scenario: Scenario, partition: int) -> list[Captured]:
    return [c for c in scenario.of(partition) if c.table != HEARTBEAT_TABLE]


def standing(cluster: Cluster, partition: int) -> Standing:
    state = cluster.shards[partition].state
    return status(Facts(partition, state, 0.0, Limits(), doubts=cluster.shards[partition].doubts)).standing


def test_without_heartbeat_rows_freshness_is_known_to_kafka_only(cluster: Cluster) -> None:
    """A shard with users becomes ready; one whose partition had none in the snapshot waits for another one."""
    met = []
    for scenario in scenarios().values():
        if scenario.name.startswith("truncate"):
            break
        for p in range(PARTITIONS):
            cluster.deliver(p, without_beats(scenario, p))
        met.append(scenario.name)
        ready = [standing(cluster, p) for p in range(PARTITIONS)]
        if scenario.name == "initial":
            assert ready == [Standing.BOOTSTRAPPING] * 4
        elif "re-snapshot" not in met:  # the first user of the last partition was streamed, not in a snapshot
            assert ready == [Standing.READY] * 3 + [Standing.BOOTSTRAPPING]
        elif scenario.name != "re-snapshot":
            assert ready == [Standing.READY] * 4
        for shard in cluster.shards:
            state = shard.state
            assert not state.heartbeat
            told = freshness([state], shard.doubts)
            assert told.as_of_ms is None
            assert not told.heartbeat
            assert (told.watermark > 0) >= state.bootstrapped
            # After a snapshot, rows that are gone stay until something is streamed into their partition.
            if scenario.name not in (ALTERED, "initial", "re-snapshot"):
                assert [r["userId"] for r in shard.listed()] == [
                    u for u in scenario.order if partition_of(u.encode(), PARTITIONS) == shard.identity.shard
                ]
    assert "blocking-snapshot" in met


def test_without_the_trigger_rows_a_truncate_makes_every_shard_stale(cluster: Cluster) -> None:
    """DEBEZIUM 18: the keyless event, seen without them, is more than its shard can tell the others."""
    for scenario in scenarios().values():
        for p in range(PARTITIONS):
            cluster.deliver(p, without_beats(scenario, p))
    doubts = [doubt for shard in cluster.shards for doubt in shard.doubts]
    assert doubts
    assert {doubt.kind for doubt in doubts} == {"stale"}
