"""Query strings, headers and cursors, as far as they need no server."""

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kycache.actors.files.directory import DataDirectory
from kycache.actors.rules.freshness import Freshness, Limits
from kycache.http.exchange.demands import format_instant, truth_headers, unmet
from kycache.http.exchange.problems import Kind, Problem
from kycache.http.exchange.request import Demand, RequestHeaders
from kycache.http.reads.answers import matches
from kycache.http.reads.cursors import Cursor, CursorCodec, cursor_keys
from kycache.http.reads.query import ListQuery, parse_list, parse_parameters
from kycache.model.definition import default_view
from kycache.model.errors import ConfigurationError
from kycache.model.view import Column, ColumnType, Filter, Privacy
from kycache.model.view import Kind as ColumnKind

VIEW = default_view()
LEVEL = Column("level", ("level",), ColumnType(ColumnKind.INT), Privacy.OPEN)
LEVELS = replace(
    VIEW, root=replace(VIEW.root, columns=(*VIEW.root.columns, LEVEL)), filters=(Filter("level", "level", ()),)
)
DATED = replace(
    VIEW,
    root=replace(
        VIEW.root,
        columns=(
            Column("branch", ("branch",), ColumnType(ColumnKind.UUID), Privacy.OPEN),
            Column("born", ("born",), ColumnType(ColumnKind.DATE), Privacy.OPEN),
        ),
    ),
    filters=(Filter("branch", "branch", ()), Filter("born", "born", ())),
)
OLD_KEY = "0" * 32
NEW_KEY = "1" * 32


def refused(query: bytes) -> tuple[Kind, str | None]:
    with pytest.raises(Problem) as caught:
        parse_list(query, VIEW)
    return caught.value.kind, caught.value.parameter


class TestQuery:
    def test_nothing_given(self) -> None:
        assert parse_list(b"", VIEW) == ListQuery(None, 1, None, None, (None, None))

    def test_everything_given(self) -> None:
        query = b"size=500&page=7&kycStatus=NONE&region=EMEA&order=oldest"
        assert parse_list(query, VIEW) == ListQuery(None, 7, 500, False, ("NONE", "EMEA"))

    @pytest.mark.parametrize(
        ("raw", "region"),
        [(b"a+b", "a b"), (b"a%20b", "a b"), (b"a%2Bb", "a+b"), (b"%C3%A9", "é"), (b"a=b", "a=b"), (b"%26", "&")],
    )
    def test_percent_decoding(self, raw: bytes, region: str) -> None:
        assert parse_list(b"region=" + raw, VIEW).filters == (None, region)

    @pytest.mark.parametrize("level", ["0", "7", "-7", "9223372036854775807", "-9223372036854775808"])
    def test_an_integer_filter_takes_a_number_as_it_is_shown(self, level: str) -> None:
        assert parse_list(b"level=" + level.encode(), LEVELS).filters == (level,)

    @pytest.mark.parametrize(
        "level",
        ["abc", "07", "-0", "7.0", "7e3", " 7", "٣", "9223372036854775808", "-9223372036854775809", "9" * 5000],
    )
    def test_an_integer_filter_takes_nothing_else(self, level: str) -> None:
        with pytest.raises(Problem) as caught:
            parse_list(b"level=" + level.replace(" ", "+").encode(), LEVELS)
        assert (caught.value.kind, caught.value.parameter) == (Kind.INVALID_PARAMETER, "level")

    def test_an_enum_filter_takes_any_of_its_labels(self) -> None:
        """An empty one too, where the enum has it: elsewhere a value that is missing is a mistake."""
        odd = replace(VIEW, filters=(Filter("level", "country", ("a,b", "")), Filter("region", "region", ())))
        assert parse_list(b"level=a,b", odd).filters == ("a,b", None)
        assert parse_list(b"level=&size=5", odd).filters == ("", None)
        for wrong in (b"level=a", b"region=", b"size="):
            with pytest.raises(Problem):
                parse_list(wrong, odd)

    def test_a_uuid_filter_takes_any_case(self) -> None:
        branch = "0000000a-0000-4000-8000-00000000000b"
        for given in (branch, branch.upper()):
            assert parse_list(b"branch=" + given.encode(), DATED).filters == (branch, None)

    @pytest.mark.parametrize(
        "born",
        [
            "2024-02-29",
            "0001-01-01",
            "0044-03-15 BC",
            "4714-11-24 BC",
            "10000-01-01",
            "5874897-12-31",
            "-infinity",
        ],
    )
    def test_a_date_filter_takes_a_date_as_it_is_shown(self, born: str) -> None:
        assert parse_list(b"born=" + born.replace(" ", "+").encode(), DATED).filters == (None, born)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[("branch", text) for text in ("x", "0000000a000040008000000000000001", "{}")],
            *[
                ("born", text)
                for text in ("2023-02-29", "2024-2-29", "02024-02-29", "0000-01-01", "4714-11-23 BC")
            ],
            *[("born", text) for text in ("5874898-01-01", "2024-02-29 bc", "20240229", "today", "٢٠٢٤-02-29")],
        ],
    )
    def test_uuid_and_date_filters_take_nothing_else(self, name: str, value: str) -> None:
        with pytest.raises(Problem) as caught:
            parse_list(f"{name}={value.replace(' ', '+')}".encode(), DATED)
        assert (caught.value.kind, caught.value.parameter) == (Kind.INVALID_PARAMETER, name)

    def test_names_are_decoded_too_and_blank_pieces_ignored(self) -> None:
        assert parse_list(b"&%73ize=5&&", VIEW).size == 5

    @pytest.mark.parametrize(
        ("query", "kind", "parameter"),
        [
            (b"limit=5", Kind.UNKNOWN_PARAMETER, "limit"),
            (b"Size=5", Kind.UNKNOWN_PARAMETER, "Size"),
            (b"=5", Kind.UNKNOWN_PARAMETER, ""),
            (b"size=5&size=5", Kind.REPEATED_PARAMETER, "size"),
            (b"size=", Kind.EMPTY_PARAMETER, "size"),
            (b"size", Kind.EMPTY_PARAMETER, "size"),
            (b"region=", Kind.EMPTY_PARAMETER, "region"),
            (b"cursor=", Kind.EMPTY_PARAMETER, "cursor"),
            (b"size=0", Kind.INVALID_PARAMETER, "size"),
            (b"size=501", Kind.INVALID_PARAMETER, "size"),
            (b"size=-1", Kind.INVALID_PARAMETER, "size"),
            (b"size=+5", Kind.INVALID_PARAMETER, "size"),
            (b"size=5.0", Kind.INVALID_PARAMETER, "size"),
            ("size=٣".encode(), Kind.INVALID_PARAMETER, "size"),
            (b"page=0", Kind.INVALID_PARAMETER, "page"),
            (b"page=" + b"9" * 16, Kind.INVALID_PARAMETER, "page"),
            (b"page=" + b"9" * 5000, Kind.INVALID_PARAMETER, "page"),
            (b"order=Newest", Kind.INVALID_PARAMETER, "order"),
            (b"kycStatus=verified", Kind.INVALID_PARAMETER, "kycStatus"),
            (b"region=%ff", Kind.INVALID_PARAMETER, "region"),
            (b"region=%zz", Kind.INVALID_PARAMETER, "region"),
            (b"region=%2", Kind.INVALID_PARAMETER, "region"),
            (b"region=" + b"x" * 1025, Kind.INVALID_PARAMETER, "region"),
            (b"cursor=x&page=1", Kind.CONFLICTING_PARAMETERS, "page"),
            (b"cursor=" + b"x" * 9000, Kind.INVALID_CURSOR, "cursor"),
        ],
    )
    def test_refused(self, query: bytes, kind: Kind, parameter: str) -> None:
        assert refused(query) == (kind, parameter)

    def test_a_name_that_is_no_text_is_shown_escaped(self) -> None:
        assert refused(b"%ff=1") == (Kind.UNKNOWN_PARAMETER, "%ff")

    def test_a_page_at_the_limit_is_one(self) -> None:
        assert parse_list(b"page=" + b"9" * 15, VIEW).page == 10**15 - 1

    def test_a_route_without_parameters_takes_none(self) -> None:
        with pytest.raises(Problem) as caught:
            parse_parameters(b"x=1", ())
        assert caught.value.parameter == "x"


class TestCursor:
    PLACE = Cursor(True, 50, ("VERIFIED", None), b"\x80" + bytes(23))

    @pytest.mark.parametrize("place", [PLACE, Cursor(False, 500, (None, "é"), None, back=True)])
    def test_round_trip(self, place: Cursor) -> None:
        codec = CursorCodec([NEW_KEY], VIEW.hash)
        text = codec.encode(place)
        assert codec.decode(text) == place
        assert all(c.isalnum() or c in "-_." for c in text)

    def test_rotation(self) -> None:
        old = CursorCodec([OLD_KEY], VIEW.hash).encode(self.PLACE)
        both = CursorCodec([NEW_KEY, OLD_KEY], VIEW.hash)
        assert both.decode(old) == self.PLACE
        assert CursorCodec([NEW_KEY], VIEW.hash).decode(both.encode(self.PLACE)) == self.PLACE

    def test_not_ours(self) -> None:
        codec = CursorCodec([NEW_KEY], VIEW.hash)
        text = codec.encode(self.PLACE)
        others = [
            CursorCodec([OLD_KEY], VIEW.hash).encode(self.PLACE),
            CursorCodec([NEW_KEY], "another view").encode(self.PLACE),
        ]
        broken = ["", ".", "x", text[:-1], text[1:], text + "=", "é" + text, text.replace(".", ""), *others]
        for cursor in broken:
            with pytest.raises(Problem) as caught:
                codec.decode(cursor)
            assert (caught.value.kind, caught.value.parameter) == (Kind.INVALID_CURSOR, "cursor")

    def test_every_changed_character_is_noticed(self) -> None:
        codec = CursorCodec([NEW_KEY], VIEW.hash)
        text = codec.encode(self.PLACE)
        for at, character in enumerate(text):
            for other in {*"AB5_"} - {character}:
                with pytest.raises(Problem):
                    codec.decode(text[:at] + other + text[at + 1 :])

    def test_keys_are_kept_private_and_stay(self, tmp_path: Path) -> None:
        directory = DataDirectory(tmp_path / "data")
        keys = cursor_keys(directory, ())
        assert cursor_keys(directory, ()) == keys
        path = directory.root / "cursor.keys"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.write_text(f"{NEW_KEY}\n{keys[0]}\n")
        assert cursor_keys(directory, ()) == (NEW_KEY, *keys)

    def test_configured_keys_come_first(self, tmp_path: Path) -> None:
        assert cursor_keys(DataDirectory(tmp_path), (NEW_KEY,)) == (NEW_KEY,)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("content", ["", "short\n"])
    def test_bad_keys_name_where(self, tmp_path: Path, content: str) -> None:
        directory = DataDirectory(tmp_path)
        (tmp_path / "cursor.keys").write_text(content)
        with pytest.raises(ConfigurationError, match=r"cursor\.keys"):
            cursor_keys(directory, ())
        with pytest.raises(ConfigurationError, match=r"\[http\] cursor_keys"):
            cursor_keys(directory, ("short",))

    def test_a_directory_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigurationError, match=r"set `\[http\] cursor_keys`"):
            cursor_keys(DataDirectory(tmp_path / "file"), ())


def demand(**headers: list[str]) -> Demand:
    sent = [(name.replace("_", "-"), value) for name, values in headers.items() for value in values]
    return RequestHeaders([("Accept", "*/*"), *sent]).demand()


class TestTruth:
    def test_demands(self) -> None:
        assert demand() == Demand(None, None, False)
        assert not demand().any
        assert demand(Kycache_Min_LSN=["16/B374D848"]).min_lsn == 0x16_B374D848
        assert demand(Kycache_Max_Staleness=["2.5"]).max_staleness_s == 2.5
        assert demand(Kycache_Max_Staleness=["0"]).any
        assert demand(Kycache_Max_Staleness=["0.1000000000000000000001"]).max_staleness_s == 0.1
        assert demand(Kycache_Max_Staleness=["9" * 400]).max_staleness_s == float("inf")
        assert demand(Kycache_Consistency=["strong"]).strong

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("Kycache-Min-LSN", ["x"]),
            ("Kycache-Min-LSN", [""]),
            ("Kycache-Min-LSN", ["0/1", "0/1"]),
            ("Kycache-Min-LSN", ["0/1, 0/2"]),
            ("Kycache-Min-LSN", ["123456789/0"]),
            ("Kycache-Max-Staleness", ["-1"]),
            ("Kycache-Max-Staleness", ["1e3"]),
            ("Kycache-Max-Staleness", ["nan"]),
            ("Kycache-Max-Staleness", [".5"]),
            ("Kycache-Max-Staleness", ["5."]),
            ("Kycache-Max-Staleness", ["٣"]),
            ("Kycache-Consistency", ["Strong"]),
            ("Kycache-Consistency", ["eventual"]),
        ],
    )
    def test_malformed(self, name: str, values: list[str]) -> None:
        with pytest.raises(Problem) as caught:
            demand(**{name.replace("-", "_"): values})
        assert (caught.value.kind, caught.value.parameter) == (Kind.INVALID_HEADER, name)

    @pytest.mark.parametrize("name", ["Kycache-Max-Stalness", "kycache-min-lsn-", "KYCACHE_MIN_LSN", "Kycache"])
    def test_a_demand_that_is_not_known(self, name: str) -> None:
        """Dropped, it would get an answer that is less true than was asked for."""
        with pytest.raises(Problem) as caught:
            RequestHeaders([("Accept", "*/*"), (name, "1")]).demand()
        assert (caught.value.kind, caught.value.parameter) == (Kind.UNKNOWN_HEADER, name)

    def test_headers(self) -> None:
        assert dict(truth_headers(Freshness(1763799157829, 0x16_B374D848, False, True))) == {
            "Kycache-As-Of": "2025-11-22T08:12:37.829Z",
            "Kycache-Watermark": "16/B374D848",
            "Kycache-Served-By": "view",
        }
        assert dict(truth_headers(Freshness(None, 1, True, False))) == {
            "Kycache-Freshness": "kafka",
            "Kycache-Suspect": "true",
            "Kycache-Watermark": "0/1",
            "Kycache-Served-By": "view",
        }

    def test_instants(self) -> None:
        assert format_instant(0) == "1970-01-01T00:00:00.000Z"
        assert format_instant(1709251199999) == "2024-02-29T23:59:59.999Z"

    def test_a_wait_is_refused_with_the_watermark_it_has(self) -> None:
        wait = unmet(Demand(101, None, False), Freshness(0, 100, False, True), (3,), 0.0, Limits())
        assert wait is not None
        assert (wait.shards, wait.min_lsn) == ((3,), 101)
        assert wait.otherwise.status == 503
        assert ("Kycache-Watermark", "0/64") in wait.otherwise.headers
        assert ("Retry-After", "1") in wait.otherwise.headers

    def test_staleness_counts_the_clock_skew(self) -> None:
        fresh = Freshness(10_000, 100, False, True)
        limits = Limits(clock_skew_s=0.5)
        assert unmet(Demand(None, 1.5, False), fresh, (0,), 11.0, limits) is None
        assert unmet(Demand(None, 1.4, False), fresh, (0,), 11.0, limits) is not None
        assert unmet(Demand(100, None, False), fresh, (0,), 99.0, limits) is None

    @pytest.mark.parametrize(
        ("asked", "lacking"),
        [
            (Demand(100, 0.5, False), "Kycache-Max-Staleness"),
            (Demand(101, 90.0, False), "Kycache-Min-LSN"),
            (Demand(101, 0.5, False), "Kycache-Min-LSN Kycache-Max-Staleness"),
            (Demand(100, 90.0, True), "Kycache-Consistency"),
            (Demand(101, 0.5, True), "Kycache-Min-LSN Kycache-Max-Staleness Kycache-Consistency"),
        ],
    )
    def test_a_refusal_names_the_demands_it_does_not_meet(self, asked: Demand, lacking: str) -> None:
        assert refusal(asked, Freshness(10_000, 100, False, True))["unmet"] == lacking.split()

    def test_where_the_age_is_not_known_no_bound_on_it_is_met(self) -> None:
        fresh = Freshness(None, 100, False, False)
        assert refusal(Demand(101, 90.0, False), fresh)["unmet"] == ["Kycache-Min-LSN", "Kycache-Max-Staleness"]
        assert refusal(Demand(100, 90.0, False), fresh)["unmet"] == ["Kycache-Max-Staleness"]

    def test_behind_a_change_that_was_missed_none_is_met_and_no_watermark_claimed(self) -> None:
        fresh = Freshness(10_000, 100, True, True, cut_off=True)
        for strong in (False, True):
            asked = Demand(1, 90.0, strong)
            with pytest.raises(Problem) as caught:
                unmet(asked, fresh, (0,), 11.0, Limits())
            assert ("Kycache-Watermark", "0/0") in caught.value.headers
            names = ["Kycache-Min-LSN", "Kycache-Max-Staleness", *(["Kycache-Consistency"] if strong else [])]
            assert refusal(asked, fresh)["unmet"] == names


def refusal(asked: Demand, fresh: Freshness) -> dict[str, Any]:
    """The problem that a demand ends in, at second 11."""
    try:
        wait = unmet(asked, fresh, (0,), 11.0, Limits())
    except Problem as problem:
        body = problem.answer().body
    else:
        assert wait is not None
        body = wait.otherwise.body
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.parametrize(
    ("header", "hit"),
    [
        ([], False),
        ([""], False),
        (["*"], True),
        (['"a"'], True),
        (['W/"a"'], True),
        (['"b", W/"a"'], True),
        (['"b"', '"a"'], True),
        (['"b,"a"'], False),
        (['"ab"'], False),
        (["a"], False),
        (['"*"'], False),
    ],
)
def test_if_none_match(header: list[str], hit: bool) -> None:
    assert matches(header, '"a"') is hit
