"""Health, metrics, and the documents that describe the interface."""

import json
import re
from pathlib import Path

import pytest
from quart_trio import QuartTrio

from kycache.actors.files.environment import Environments
from kycache.actors.integrity.vouching import MARK, mark_of, vouch
from kycache.actors.router import Router
from kycache.actors.rules.reports import Report, WriterState
from kycache.http.documents.docs_page import docs_answer
from kycache.http.documents.openapi import build_openapi
from kycache.http.exchange.counts import ROUTES, Tally
from kycache.http.exchange.driver import Driver
from kycache.http.exchange.problems import Kind
from kycache.http.exchange.watch import Watch
from kycache.http.operations.health import Health
from kycache.http.operations.metrics import Exposition
from kycache.http.reads.answers import Answers
from kycache.http.reads.cursors import CursorCodec
from kycache.http.reads.exports import Exports
from kycache.http.reads.kept_bodies import KeptBodies
from kycache.http.reads.page_cache import PageCache
from kycache.http.serving.app import create_app
from kycache.http.serving.routes import make_routes
from kycache.model.definition import parse_view
from kycache.model.view import View
from support.http_stand import MAP_BYTES, OTHER_VIEW, Stand, User, now_ms, problem, serving

ADA = User(1, statuses=["VERIFIED"])


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    made = Stand(tmp_path / "data")
    made.load([ADA, *(User(n) for n in range(2, 40))])
    return made


class TestOperations:
    async def test_livez(self, stand: Stand) -> None:
        async with serving(stand) as client:
            assert (await client.get("/livez")).json() == {"live": True}

    async def test_ready(self, stand: Stand) -> None:
        async with serving(stand) as client:
            response = await client.get("/readyz")
            assert response.status_code == 200
            body = response.json()
            assert body["ready"] is True
            assert [s["shard"] for s in body["shards"]] == [0, 1, 2]
            assert {s["state"] for s in body["shards"]} == {"ready"}
            assert all(0 <= s["stalenessSeconds"] < 10 for s in body["shards"])
            assert (await client.get("/readyz?strict=1")).status_code == 200
            problem(await client.get("/readyz?strict=yes"), 400, "invalid-parameter", "strict")

            stand.directory.shard(1).write_report(Report(WriterState.HALTED, "a key of another partition"))
            loose, strict = await client.get("/readyz"), await client.get("/readyz?strict=1")
            assert (loose.status_code, strict.status_code) == (200, 503)
            assert strict.json()["ready"] is False
            assert [s["state"] for s in loose.json()["shards"]] == ["ready", "halted", "ready"]
            assert (await client.get("/users")).status_code == 200  # with the last as-of

    async def test_stale_but_bootstrapped_serves(self, tmp_path: Path) -> None:
        stand = Stand(tmp_path / "data")
        stand.load([ADA], ts_ms=now_ms() - 60_000)
        async with serving(stand) as client:
            response = await client.get("/readyz")
            assert response.status_code == 200
            assert {s["state"] for s in response.json()["shards"]} == {"stale"}
            assert (await client.get("/readyz?strict=1")).status_code == 503

    async def test_not_ready_until_each_shard_was(self, tmp_path: Path) -> None:
        stand = Stand(tmp_path / "data")
        async with serving(stand) as client:
            response = await client.get("/readyz")
            assert (response.status_code, response.json()) == (503, {"ready": False, "shards": []})
            stand.create()
            response = await client.get("/readyz")
            assert response.status_code == 503
            assert {s["state"] for s in response.json()["shards"]} == {"bootstrapping"}

    async def test_not_ready_until_each_file_is_walked(self, stand: Stand) -> None:
        """After an unclean stop: the list would be 503, so a load balancer must not send requests yet."""
        folder = stand.directory.shard(1)
        folder.write_report(Report(WriterState.HALTED, "what the killed process last said"))
        generation = folder.current()
        assert generation is not None
        stand.close()
        (generation / MARK).unlink()
        stand.environments = Environments(readonly=True, map_size=MAP_BYTES)
        async with serving(stand) as client:
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
            assert [s["state"] for s in ready.json()["shards"]] == ["ready", "bootstrapping", "ready"]
            problem(await client.get("/users"), 503, "not-ready")
            lock = folder.lock()  # a holder that has looked, and says so: that is no matter of seconds
            assert lock is not None
            ready = await client.get("/readyz")
            assert ready.status_code == 200
            assert [s["state"] for s in ready.json()["shards"]] == ["ready", "halted", "ready"]
            lock.release()
            vouch(generation, mark_of(generation))
            ready = await client.get("/readyz")
            assert ready.status_code == 200
            assert [s["state"] for s in ready.json()["shards"]] == ["ready", "halted", "ready"]
            assert (await client.get("/users")).status_code == 200
            (generation / MARK).unlink()  # a writer is killed: who has the file open goes on
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.get("/users")).status_code == 200

    async def test_metrics(self, stand: Stand) -> None:
        async with serving(stand) as client:
            await client.get(f"/users/{ADA.id}")
            await client.get("/users/x")
            await client.get("/nowhere")
            response = await client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        text = response.text
        for line in (
            'kycache_http_requests_total{route="/users/<user_id>",status="200"} 1.0',
            'kycache_http_requests_total{route="/users/<user_id>",status="400"} 1.0',
            'kycache_http_requests_total{route="other",status="404"} 1.0',
            'kycache_http_request_seconds_count{route="/users/<user_id>"} 2.0',
            'kycache_http_request_seconds_bucket{le="+Inf",route="/users/<user_id>"} 2.0',
            'kycache_shard_state{shard="0",state="ready"} 1.0',
            'kycache_shard_state{shard="0",state="halted"} 0.0',
            f'kycache_shard_watermark_lsn{{shard="2"}} {float(stand.lsn)}',
            'kycache_shard_lag_records{shard="1"} 0.0',
            'kycache_shard_quarantined_records{shard="1"} 0.0',
            'kycache_shard_suspect_profiles{shard="1"} 0.0',
            'kycache_shard_altered{shard="1"} 0.0',
            'kycache_shard_changes_total{outcome="beats",shard="0"} 2.0',
        ):
            assert line in text
        users = re.findall(r'kycache_shard_users\{shard="\d"\} (\S+)', text)
        assert sum(map(float, users)) == 39
        assert ADA.id not in text

    async def test_every_metric_is_explained(self, stand: Stand) -> None:
        page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
        async with serving(stand) as client:
            names = re.findall(r"^# HELP (\w+) ", (await client.get("/metrics")).text, re.MULTILINE)
        assert len(names) > 10
        assert [name for name in names if f"`{name}`" not in page] == []

    def test_tally_sums_workers_and_survives_one(self) -> None:
        tally = Tally(2)
        tally.row(0).request("/users", 200, 0.003)
        tally.row(1).request("/users", 418, 9.0)
        dead = tally.row(1)
        dead.gauge("freshness_waiting", +1)
        tally.row(1).request("/users", 200, 0.003)
        samples = {(s.name, *s.labels.values()): s.value for m in tally.collect() for s in m.samples}
        assert samples["kycache_http_requests_total", "/users", "200"] == 2
        assert samples["kycache_http_requests_total", "/users", "other"] == 1
        assert samples["kycache_http_request_seconds_bucket", "/users", "0.0025"] == 0
        assert samples["kycache_http_request_seconds_bucket", "/users", "0.005"] == 2
        assert samples["kycache_http_request_seconds_bucket", "/users", "+Inf"] == 3
        assert samples["kycache_http_request_seconds_sum", "/users"] == pytest.approx(9.006)
        assert samples["kycache_http_freshness_waiting",] == 0

    def test_what_one_worker_was_asked_for_all_know(self) -> None:
        tally = Tally(3)
        tally.row(1).note_granted(500)
        tally.row(1).note_granted(70)
        tally.row(2).note_granted(90)
        assert (tally.granted_lsn(), tally.row(0).tally.granted_lsn()) == (500, 500)


def application(stand: Stand, view: View) -> QuartTrio:
    router = Router(stand.directory, stand.environments, view, stand.limits)
    counts = Tally().row(0)
    answers = Answers(
        router, CursorCodec(["k" * 32], view.hash), PageCache(0.0), KeptBodies(0), Exports(1, counts), counts
    )
    routes = make_routes(view, answers, Health(router), Exposition(router, counts.tally))
    return create_app(view, routes, Driver(Watch(router, counts), counts, 0.1))


class TestDocuments:
    @pytest.mark.parametrize("other", [False, True])
    def test_every_route_and_only_those(self, stand: Stand, other: bool) -> None:
        view = parse_view(OTHER_VIEW, "other.toml") if other else stand.view
        served = {
            (re.sub("<.*?>", "{}", rule.rule), method.lower())
            for rule in application(stand, view).url_map.iter_rules()
            for method in (rule.methods or set()) - {"HEAD"}
        }
        documented = {
            (re.sub("{.*?}", "{}", path), method)
            for path, methods in build_openapi(view)["paths"].items()
            for method in methods
        }
        assert served == documented
        assert {route for route, _ in served} == {re.sub("<.*?>", "{}", r) for r in ROUTES if r != "other"}

    async def test_served(self, stand: Stand) -> None:
        async with serving(stand) as client:
            document = (await client.get("/openapi.json")).json()
            page = await client.get("/docs")
            detail = (await client.get(f"/users/{ADA.id}")).json()
            row = (await client.get("/users")).json()["data"][0]
        assert document["openapi"] == "3.1.0"
        schemas = document["components"]["schemas"]
        assert list(schemas["Profile"]["properties"]) == list(detail)
        assert schemas["Profile"]["required"] == list(detail)
        assert list(schemas["Profile"]["properties"]["address"]["properties"]) == list(detail["address"])
        assert list(schemas["ListRow"]["properties"]) == list(row)
        assert schemas["Profile"]["properties"]["kycStatus"]["enum"][-1] == "NONE"
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "<script" not in page.text
        assert not re.findall(r"""(?:src|href)="(?!/)""", page.text)
        assert "GET /users/{userId}" in page.text

    def test_references_resolve(self, stand: Stand) -> None:
        document = build_openapi(stand.view)
        references = re.findall(r'"\$ref": "#/(.*?)"', json.dumps(document))
        assert references
        for reference in references:
            found = document
            for step in reference.split("/"):
                found = found[step]

    def test_every_route_says_what_else_it_may_answer(self, stand: Stand) -> None:
        """A parameter that is wrong, and our own bug; on the reads, that there is nothing to read yet."""
        for path, methods in build_openapi(stand.view)["paths"].items():
            answers = set(methods["get"]["responses"])
            assert answers >= {"200", "400", "500"} | ({"503"} if path.startswith("/users") else set())

    def test_the_page_for_clients_lists_every_problem(self) -> None:
        page = (Path(__file__).parents[2] / "docs" / "clients.md").read_text(encoding="utf-8")
        listed = re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", page, re.MULTILINE)
        assert listed == [(kind.slug, str(kind.status)) for kind in Kind]

    def test_another_view_documents_itself(self) -> None:
        document = build_openapi(parse_view(OTHER_VIEW, "other.toml"))
        operation = document["paths"]["/users/{customerId}"]["get"]
        assert operation["parameters"][0]["schema"] == {"type": "integer", "format": "int64"}
        profile = document["components"]["schemas"]["Profile"]["properties"]
        assert profile["contact"]["properties"] == {"name": {"type": ["string", "null"]}}
        assert profile["tier"] == {"enum": ["GOLD", "TIN", None]}
        names = [p.get("name") for p in document["paths"]["/users"]["get"]["parameters"]]
        assert names[:5] == ["size", "page", "cursor", "order", "tier"]
        assert b"customerId" in docs_answer(document).body
