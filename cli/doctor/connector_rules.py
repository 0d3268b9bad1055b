"""What `kycache doctor` concludes of the connector. Pure: plain facts in, findings out."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kycache.model.connector import EXACT_CASE, MESSAGE_BYTES_MAX
from kycache.model.fingerprint import FINGERPRINT

from .failure_rules import Reason
from .topic_rules import RUN_CONNECTOR, WARNING, Finding

_NOT_COMPARED = ("database.", "topic.creation.")
"""How Debezium reaches the source is the operator's affair, and a topic that exists is not made again."""


SHOWN_CHARACTERS_MAX = 300
"""Of a setting in a message: the beat's query has thousands."""


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """A task that has failed. Of its trace what is known to hold no row, else the exceptions' names only."""

    task: int
    exceptions: tuple[str, ...] = ()
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class ConnectorFacts:
    """The connector in Kafka Connect. `state` is empty where it does not exist."""

    state: str
    tasks: tuple[str, ...] = ("RUNNING",)
    """Their states."""
    failures: tuple[TaskFailure, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    reason: Reason | None = None
    """Why the connector itself has failed, where it has and that is known."""


_LARGER_WILL_DO = ("producer.override.max.request.size", "producer.override.buffer.memory")

_MILD = {
    **dict.fromkeys(
        _LARGER_WILL_DO,
        "a row that takes more, before and after an update together, stops the task for good",
    ),
    "database.initial.statements": "while a synchronous standby stalls, beats wait for it and the view freezes",
}
"""What is missed on a bad day only, so that a connector of before is no error."""

_HARMFUL = {
    "snapshot.include.collection.list": "a whole snapshot would leave tables out, and their rows be swept",
    "snapshot.select.statement.overrides": "a whole snapshot would leave rows out, and they be swept",
    "column.include.list": "rows come without columns that the view has",
    "column.exclude.list": "rows come without columns that the view has",
    "table.exclude.list": "tables are left out",
    "schema.include.list": "tables may be left out",
    "schema.exclude.list": "tables may be left out",
    "unavailable.value.placeholder": "an unchanged large value is taken for the placeholder's text",
    "time.precision.mode": "times come in units that are not expected",
    "binary.handling.mode": "bytes come in another form than base64",
    "skip.messages.without.change": "changes are dropped",
    "event.processing.failure.handling.mode": "changes that fail are dropped",
    "errors.tolerance": "changes that fail are dropped",
    "producer.override.partitioner.class": "users come in partitions where they are not looked for",
    "producer.override.partitioner.ignore.keys": "users come in partitions where they are not looked for",
    "producer.override.acks": "changes that the broker lost are not sent again",
    "snapshot.query.mode": "a whole snapshot may leave rows out, and they be swept",
    "converters": "values come otherwise than the view expects them",
    "topic.naming.strategy": "tables come to topics that are not routed",
    "slot.drop.on.stop": "what is written while the connector is stopped reaches nobody",
    "internal.log.position.check.enable": "a slot that lost changes is read on from without a word",
}
"""Settings that `kycache connector` leaves at their defaults, and what they do."""

_HARMFUL_PREFIXES = {
    "column.mask.": "values come masked",
    "column.truncate.": "values come cut off",
    "snapshot.select.statement.overrides.": "a whole snapshot would leave rows out, and they be swept",
    "transforms.": "records come changed, or under other keys",
    "predicates.": "records come changed, or under other keys",
}

_HARMLESS = {
    "time.precision.mode": ("adaptive",),
    "binary.handling.mode": ("bytes",),
    "event.processing.failure.handling.mode": ("fail",),
    "errors.tolerance": ("none",),
    "skip.messages.without.change": ("false",),
    "unavailable.value.placeholder": ("__debezium_unavailable_value",),
    "producer.override.partitioner.ignore.keys": ("false",),
    "producer.override.acks": ("all", "-1"),
    "snapshot.query.mode": ("select_all",),
    "topic.naming.strategy": ("io.debezium.schema.SchemaTopicNamingStrategy",),
    "slot.drop.on.stop": ("false",),
    "internal.log.position.check.enable": ("true",),
}
"""Their defaults and what comes to the same, which may as well be written down."""


_TIMESTAMPS_ADAPTIVE = "adaptive_time_microseconds"
"""The mode that is `adaptive` for timestamps only."""


def judge_connector(
    facts: ConnectorFacts, name: str, expected: Mapping[str, str], *, times_of_day: bool = False
) -> Iterator[Finding]:
    """The connector as Kafka Connect runs it, against what `kycache connector` prints.

    Args:
        times_of_day: the view has some, which one mode writes otherwise than timestamps.
    """
    if not facts.state:
        yield Finding("connector", f"Kafka Connect has no connector {name!r}", RUN_CONNECTOR)
        return
    trace = f"GET /connectors/{name}/status has the trace"
    restart = f"POST /connectors/{name}/restart?includeTasks=true&onlyFailed=true"
    if facts.state != "RUNNING":
        ordered = facts.state in ("PAUSED", "STOPPED")
        why = "" if facts.reason is None else f": {facts.reason.problem}"
        cure = f"{trace}; remove the cause" if facts.reason is None else facts.reason.remedy
        yield Finding(
            "connector",
            f"connector {name!r} is {facts.state}{why}",
            f"resume it: PUT /connectors/{name}/resume" if ordered else f"{cure}, then {restart}",
        )
    elif not facts.tasks:
        yield Finding("connector", f"connector {name!r} has no task", "see Kafka Connect's log; restart it")
    elif idle := [state for state in facts.tasks if state not in ("RUNNING", "FAILED")]:
        yield Finding(
            "connector",
            f"the task of connector {name!r} is {idle[0]}",
            "wait while Kafka Connect's workers divide their tasks; if it stays so, see their logs",
        )
    for failure in facts.failures:
        of = f" of {', caused by '.join(failure.exceptions)}" if failure.exceptions else ""
        why = "" if failure.reason is None else f": {failure.reason.problem}"
        # Started again without that, it fails again.
        cure = f"{trace}; remove the cause" if failure.reason is None else failure.reason.remedy
        yield Finding(
            "connector",
            f"task {failure.task} of connector {name!r} has failed{of}{why}",
            f"{cure}, then {restart}",
        )
    yield from _judge_limits(facts, name, expected)
    for key, value in expected.items():
        if (
            key in _MILD
            or key.startswith(_NOT_COMPARED)
            or facts.config.get(key) in (value, value.replace(EXACT_CASE, ""))
        ):
            continue  # without the flag, tables come that nobody routes; those of the view come all the same
        if _lacks_fingerprint(key, facts.config.get(key), value):
            unseen = "it lacks the fingerprint: DDL that changes rows without an event goes unseen"
            yield Finding("connector", f"connector {name!r}: {key}: {unseen}", RUN_CONNECTOR, WARNING)
            continue
        there = f"is {_shown(facts.config[key])}" if key in facts.config else "is not set"
        yield Finding("connector", f"connector {name!r}: {key} {there}, expected {_shown(value)}", RUN_CONNECTOR)
    for key, value in facts.config.items():
        if key in expected or not value or value in _HARMLESS.get(key, ()):
            continue
        if value == _TIMESTAMPS_ADAPTIVE and not times_of_day:
            continue
        harm = _HARMFUL.get(key) or next((h for p, h in _HARMFUL_PREFIXES.items() if key.startswith(p)), "")
        if harm:
            yield Finding("connector", f"connector {name!r}: {key} is set: {harm}", f"remove it: {RUN_CONNECTOR}")


def _lacks_fingerprint(key: str, found: str | None, printed: str) -> bool:
    """A connector of before: all else works with it."""
    if key.startswith("snapshot.select.statement.overrides"):
        return found is None
    before = re.sub(rf", {FINGERPRINT} = .*(?= FROM \(SELECT user_id)", "", printed, flags=re.DOTALL)
    return key == "heartbeat.action.query" and found == before


def _shown(value: str) -> str:
    return repr(value) if len(value) <= SHOWN_CHARACTERS_MAX else f"a text of {len(value)} characters"


def _judge_limits(facts: ConnectorFacts, name: str, expected: Mapping[str, str]) -> Iterator[Finding]:
    """How much it sends, and for whom its sessions wait."""
    for key, harm in _MILD.items():
        value, there = expected.get(key), facts.config.get(key, "")
        enough = key in _LARGER_WILL_DO and there.isdigit() and value is not None and int(there) >= int(value)
        if value is None or enough or (value.partition(" ")[2] and value.partition(" ")[2] in there):
            continue
        found = f"is {there!r}" if there else "is not set"
        yield Finding(
            "connector", f"connector {name!r}: {key} {found}, expected {value!r}: {harm}", RUN_CONNECTOR, WARNING
        )
    sent = facts.config.get("producer.override.max.request.size", "")
    if sent.isdigit() and int(sent) > MESSAGE_BYTES_MAX:
        yield Finding(
            "connector",
            f"connector {name!r} sends up to {sent} bytes, and ingest reads up to {MESSAGE_BYTES_MAX}: a larger "
            "change goes to quarantine",
            RUN_CONNECTOR,
            WARNING,
        )
