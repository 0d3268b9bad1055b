"""`kycache doctor`: whether broker, source and connector are as the view's promises need them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import typer

from kycache.model.connector import connector_config
from kycache.model.errors import KycacheError, Refused, Unreachable

from .composition import (
    connector_settings,
    data_directory,
    kafka_settings,
    partitions_of,
    source_dsn,
)
from .findings import Finding, judge_connector, judge_source, judge_topic
from .invocation import JsonOption, invocation
from .settings import Settings


@dataclass
class Diagnosis:
    """What was found, what was sound, and what was not looked at."""

    findings: list[Finding] = field(default_factory=list)
    sound: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    unreachable: bool = False

    def look(self, what: str, examine: Callable[[], Iterator[Finding]]) -> None:
        """Examine one thing; that it does not answer is a finding too."""
        try:
            found = list(examine())
        except KycacheError as error:
            self.unreachable = self.unreachable or isinstance(error, Unreachable)
            found = [Finding(what, error.problem, error.remedy)]
        self.findings += found
        if not found:
            self.sound.append(what)

    @property
    def exit_code(self) -> int:
        """0 where all is sound."""
        if self.unreachable:
            return Unreachable.exit_code
        return Refused.exit_code if self.findings else 0


def doctor(context: typer.Context, as_json: JsonOption = False) -> None:
    """Check broker, topic, source and connector against what the view needs. Changes nothing."""
    diagnosis = diagnose(invocation(context).settings())
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "sound": not diagnosis.findings,
                    "findings": [finding._asdict() for finding in diagnosis.findings],
                    "unchecked": diagnosis.unchecked,
                }
            )
        )
    else:
        for finding in diagnosis.findings:
            typer.echo(f"{finding.check}: {finding.problem}\n  next: {finding.remedy}")
        if not diagnosis.findings:
            typer.echo("; ".join([f"sound: {', '.join(diagnosis.sound)}", *diagnosis.unchecked]))
    raise typer.Exit(diagnosis.exit_code)


def diagnose(settings: Settings) -> Diagnosis:
    """Look at everything that is configured.

    Raises:
        ConfigurationError: the view definition is wrong.
        Refused: the data directory was made by another kycache or for another view.
    """
    # Here, as the clients of Kafka and PostgreSQL take their time to import.
    from .examination import look_at_connector, look_at_source, look_at_topic

    diagnosis = Diagnosis()
    view = settings.load_view()
    directory = data_directory(settings)
    home = directory.node()
    if home is not None:
        directory.check_view(home, view.hash)
    kafka = kafka_settings(settings)
    # Until the broker says otherwise.
    partitions = partitions_of(settings, directory, None)

    def topic() -> Iterator[Finding]:
        nonlocal partitions
        facts = look_at_topic(kafka)
        partitions = facts.partitions or partitions
        yield from judge_topic(facts, kafka.topic, home)

    diagnosis.look("topic", topic)
    expected = connector_settings(settings, partitions)
    dsn = source_dsn(settings)
    if dsn is None:
        diagnosis.unchecked.append("the source was not looked at: `[source] dsn` is not set")
    else:

        def source() -> Iterator[Finding]:
            facts = look_at_source(dsn, view, expected)
            yield from judge_source(facts, view, expected, kafka.key_form, partitions)

        diagnosis.look("source", source)
    url = settings.connect.url
    if url is None:
        diagnosis.unchecked.append("the connector was not looked at: `[connect] url` is not set")
    else:

        def connector() -> Iterator[Finding]:
            facts = look_at_connector(url, expected.name)
            yield from judge_connector(facts, expected.name, connector_config(view, expected))

        diagnosis.look("connector", connector)
    return diagnosis
