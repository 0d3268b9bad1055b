"""Who else is in the consumer group: not being able to tell is not the same as nobody.

A broker that answers is in test_ingest_on_kafka.py; what cannot be caused there at will is faked here.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from kafka.errors import CoordinatorNotAvailableError, GroupIdNotFoundError, KafkaConnectionError, KafkaError

from kycache.actors.store.turn import Turn
from kycache.ingest.consuming import thread as consumer
from kycache.ingest.consuming import topic
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.thread import ConsumerThread
from kycache.ingest.consuming.topic import foreign_members
from kycache.model.definition import default_view
from kycache.model.errors import Refused

SETTINGS = KafkaSettings("nowhere:9092")
OURS = "kycache-0a1b"
PLACE = "9f8e7d6c"


class Answers:
    """In place of the admin client: a broker that answers, or does not, in the order given."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers: Iterator[Any] = iter(answers)
        self.asked = 0
        self.closed = 0

    def __call__(self, **_: object) -> "Answers":
        return self

    def describe_groups(self, groups: list[str]) -> dict[str, Any]:
        self.asked += 1
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return {groups[0]: answer}

    def close(self) -> None:
        self.closed += 1


def members(*names: str, place: str = PLACE) -> dict[str, Any]:
    about = [{"group_instance_id": n, "member_id": "m", "client_id": f"{n}.{place}"} for n in names]
    return {"error": None, "members": about}


def failed(error: type[Exception]) -> dict[str, Any]:
    return {"error": str(error("")), "members": []}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Answers:
    made = Answers(request.param)
    monkeypatch.setattr(topic, "KafkaAdminClient", made)
    return made


@pytest.mark.parametrize(
    "asked",
    [[CoordinatorNotAvailableError()], [KafkaConnectionError("no")], [failed(CoordinatorNotAvailableError)]],
    indirect=True,
)
def test_a_group_that_cannot_be_described_is_not_an_empty_one(asked: Answers) -> None:
    with pytest.raises(KafkaError):
        foreign_members(SETTINGS, OURS, PLACE)
    assert asked.closed == 1


@pytest.mark.parametrize("asked", [[failed(GroupIdNotFoundError)], [members()]], indirect=True)
@pytest.mark.usefixtures("asked")
def test_a_group_that_nobody_joined_is_empty() -> None:
    assert foreign_members(SETTINGS, OURS, PLACE) == []


@pytest.mark.parametrize("asked", [[members(f"{OURS}-0", f"{OURS}-1", place="00000000")]], indirect=True)
@pytest.mark.usefixtures("asked")
def test_members_of_a_copy_of_the_directory_are_foreign_ones() -> None:
    assert foreign_members(SETTINGS, OURS, PLACE) == [f"{OURS}-0", f"{OURS}-1"]


@pytest.mark.parametrize(
    "asked",
    [
        [
            KafkaConnectionError("away"),
            failed(CoordinatorNotAvailableError),
            *[members(f"{OURS}-0", "kycache-ffff-0")] * 20,
        ]
    ],
    indirect=True,
)
def test_the_group_is_joined_only_when_it_could_be_asked(asked: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker is away, then has no coordinator, and then tells of a member of another data directory."""
    monkeypatch.setattr(consumer, "SESSION_TIMEOUT_MS", 0)
    monkeypatch.setattr(consumer, "RETRY_WAIT_S", 0.01)
    monkeypatch.setattr(consumer, "KafkaConsumer", lambda **_: pytest.fail("the group was joined"))

    class Nobody:
        """Holders that nothing reaches."""

    thread = ConsumerThread(SETTINGS, default_view(), f"{OURS}-0", PLACE, Nobody(), Turn())  # type: ignore[arg-type]
    with pytest.raises(
        Refused, match="members of another data directory, or of a copy of this one: kycache-ffff-0"
    ):
        thread.run()
    assert asked.asked > 3
