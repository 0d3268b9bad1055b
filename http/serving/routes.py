"""Every route of the service, and what answers it."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from kycache.http.documents.docs_page import docs_answer
from kycache.http.documents.openapi import build_openapi
from kycache.http.exchange.driver import Route
from kycache.http.exchange.problems import Answer
from kycache.http.exchange.request import Request
from kycache.http.operations.health import Health
from kycache.http.operations.metrics import Exposition
from kycache.http.reads.answers import Answers
from kycache.http.reads.query import parse_parameters
from kycache.model.view import View

DOCUMENT_HEADERS = (("Content-Type", "application/json"), ("Cache-Control", "no-cache"))


class Routes(NamedTuple):
    """The routes; in the order in which the framework tries them."""

    users: Route
    export: Route
    user: Route
    livez: Route
    readyz: Route
    metrics: Route
    openapi: Route
    docs: Route


def make_routes(view: View, answers: Answers, health: Health, exposition: Exposition) -> Routes:
    """The routes over one data directory."""
    openapi = build_openapi(view)
    document, page = Answer(200, DOCUMENT_HEADERS, msgspec.json.encode(openapi)), docs_answer(openapi)
    return Routes(
        users=Route("/users", answers.users, answers.kept_users),
        export=Route("/users/export", answers.export),
        user=Route("/users/<user_id>", answers.user, answers.kept_user),
        livez=Route("/livez", _plain(health.live)),
        readyz=Route("/readyz", lambda request: health.readiness(request.query)),
        metrics=Route("/metrics", _plain(exposition.answer)),
        openapi=Route("/openapi.json", _plain(lambda: document)),
        docs=Route("/docs", _plain(lambda: page)),
    )


def _plain(answer: Callable[[], Answer]) -> Callable[[Request], Answer]:
    """A route that takes no parameters."""

    def ask(request: Request) -> Answer:
        parse_parameters(request.query, ())
        return answer()

    return ask
