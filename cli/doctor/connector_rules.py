"""What `kycache doctor` concludes of the connector. Pure: plain facts in, findings out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kycache.model.connector import EXACT_CASE

from .topic_rules import RUN_CONNECTOR, Finding

_NOT_COMPARED = ("database.", "topic.creation.")
"""How Debezium reaches the source is the operator's affair, and a topic that exists is not made again."""


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """A task that has failed. Of its trace the exceptions' names only: a message may hold a row."""

    task: int
    exceptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectorFacts:
    """The connector in Kafka Connect. `state` is empty where it does not exist."""

    state: str
    tasks: tuple[str, ...] = ("RUNNING",)
    """Their states."""
    failures: tuple[TaskFailure, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)


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
    "time.precision.mode": ("adaptive", "adaptive_time_microseconds"),
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


def judge_connector(facts: ConnectorFacts, name: str, expected: Mapping[str, str]) -> Iterator[Finding]:
    """The connector as Kafka Connect runs it, against what `kycache connector` prints."""
    if not facts.state:
        yield Finding("connector", f"Kafka Connect has no connector {name!r}", RUN_CONNECTOR)
        return
    restart = f"POST /connectors/{name}/restart?includeTasks=true&onlyFailed=true"
    if facts.state != "RUNNING":
        ordered = facts.state in ("PAUSED", "STOPPED")
        yield Finding(
            "connector",
            f"connector {name!r} is {facts.state}",
            f"resume it: PUT /connectors/{name}/resume" if ordered else f"see Kafka Connect's log, then {restart}",
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
        yield Finding(
            "connector",
            f"task {failure.task} of connector {name!r} has failed{of}",
            f"see Kafka Connect's log, then {restart}",
        )
    for key, value in expected.items():
        if key.startswith(_NOT_COMPARED) or facts.config.get(key) in (value, value.replace(EXACT_CASE, "")):
            continue  # without the flag, tables come that nobody routes; those of the view come all the same
        there = f"is {facts.config[key]!r}" if key in facts.config else "is not set"
        yield Finding("connector", f"connector {name!r}: {key} {there}, expected {value!r}", RUN_CONNECTOR)
    for key, value in facts.config.items():
        if key in expected or not value or value in _HARMLESS.get(key, ()):
            continue
        harm = _HARMFUL.get(key) or next((h for p, h in _HARMFUL_PREFIXES.items() if key.startswith(p)), "")
        if harm:
            yield Finding("connector", f"connector {name!r}: {key} is set: {harm}", f"remove it: {RUN_CONNECTOR}")
