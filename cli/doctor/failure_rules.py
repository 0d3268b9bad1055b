"""Why a connector's task has failed, out of its trace. Pure.

A message of Debezium, of a driver or of a converter may quote the row that it failed on. So none is passed on as
it is: of the messages that are known only names and numbers are taken, and of all others the exceptions' names.
"""

import re
from typing import NamedTuple

from .topic_rules import RUN_CONNECTOR, RUN_SQL

EXCEPTIONS_MAX = 5
"""Causes of a failed task that are named: the last one is what happened, the first ones who noticed."""


class Reason(NamedTuple):
    """What stopped a task, and what to do about it."""

    problem: str
    remedy: str


_NAME = r"[\"']?(?P<name>[\w.$-]+)[\"']?"
"""Of a table, a role, a slot: never of a value."""

_CHECK_DSN = "see that `[connector] dsn` is what Debezium must use, then " + RUN_CONNECTOR

_KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"The message is (?P<size>\d+) bytes when serialized which is larger than (?:the )?(?P<limit>\d+)?",
        "a change takes {size} bytes as it is sent, more than its producer may send",
        f"{RUN_CONNECTOR} (producer.override.max.request.size); where Kafka Connect refuses that, set "
        "`producer.max.request.size` of its worker",
    ),
    (
        r"RecordTooLargeException|larger than the max message size",
        "a change is larger than the topic takes",
        "raise the topic's max.message.bytes to what the connector may send",
    ),
    (
        r"DataException: (?P<name>\w+) is not a valid field name",
        "a transform finds no field {name} in a key",
        RUN_CONNECTOR,
    ),
    (r"publication " + _NAME + r" does not exist", "publication {name} does not exist", RUN_SQL),
    (r"Publication autocreation is disabled", "its publication does not exist", RUN_SQL),
    (
        r"replication slot " + _NAME + r" is active for PID (?P<pid>\d+)",
        "another connector reads replication slot {name} (server process {pid})",
        "give each connector a `[connector] slot` of its own, or remove the other connector",
    ),
    (
        r"replication slot " + _NAME + r" does not exist",
        "replication slot {name} does not exist any more",
        "run `kycache rebuild --epoch`, which orders a whole snapshot",
    ),
    (
        r"all replication slots are in use|number of requested standby connections exceeds max_wal_senders",
        "the source has no replication slot or WAL sender left",
        "raise max_replication_slots and max_wal_senders of the source, or drop slots that nobody reads",
    ),
    (
        r"is no longer available on the server|can no longer get changes from replication slot",
        "the source has removed what the connector was to read next",
        "run `kycache rebuild --epoch`, which orders a whole snapshot",
    ),
    (
        r"permission denied for (?P<kind>table|schema|database|sequence|function|relation|view) " + _NAME,
        "its role may not use {kind} {name}",
        "grant it what the first line of `kycache connector --sql` names",
    ),
    (
        r"must be (?:superuser|owner|replication|a replication)"
        r"|permission denied to (?:start WAL sender|use replication)",
        "its role may not replicate",
        "ALTER ROLE it REPLICATION; the first line of `kycache connector --sql` names all that it needs",
    ),
    (
        r"Unable to obtain valid replication slot",
        "it gets no replication slot while long transactions of the source are open",
        "end the source's oldest transactions (pg_stat_activity), or wait for them",
    ),
    (
        r"Could not execute heartbeat action query",
        "its heartbeat cannot write its table",
        f"grant its role SELECT and UPDATE there, or {RUN_SQL}",
    ),
    (r"password authentication failed for user", "the source refuses its password", _CHECK_DSN),
    (
        r"no pg_hba\.conf entry for|no encryption",
        "the source lets nobody in from where Kafka Connect stands, or not without TLS",
        f"add an entry to pg_hba.conf, or sslmode to the dsn; {_CHECK_DSN}",
    ),
    (r"database " + _NAME + r" does not exist", "the source has no database {name}", _CHECK_DSN),
    (r"role " + _NAME + r" does not exist", "the source has no role {name}", _CHECK_DSN),
    (
        r"Connection to \S+ refused|The connection attempt failed|UnknownHostException|Connect timed out",
        "Kafka Connect does not reach the source",
        f"see that it runs and is reached from there; {_CHECK_DSN}",
    ),
    (
        r"PKIX path|SSLHandshakeException|SSL error|Could not open SSL root certificate file",
        "its TLS connection to the source fails",
        "see that sslrootcert, sslcert and sslkey of the dsn are files on Kafka Connect's machine",
    ),
    (
        r"has columns that differ only by case",
        "a table has columns that differ only by case, which Debezium refuses",
        "rename all but one of them at the source",
    ),
    (
        r"(?:column|relation) " + _NAME + r"(?: of relation \S+)? does not exist",
        "the source has no {name} any more",
        f"see that the view fits the source, then {RUN_SQL}",
    ),
    (
        r"TopicAuthorizationException|Not authorized to access topics",
        "Kafka does not let it write to its topic",
        "grant Kafka Connect's principal WRITE and DESCRIBE on it, and CREATE where it is to make it",
    ),
    (
        r"UNKNOWN_TOPIC_OR_PARTITION|Topic \S+ not present in metadata",
        "its topic does not exist, and Kafka Connect does not make it",
        "create it, or set `topic.creation.enable=true` of Kafka Connect's worker",
    ),
)
"""What a trace says, what that means, and what helps."""


def reason_of(trace: str) -> Reason | None:
    """Why a task has failed, as its trace tells; None where it says nothing that is known."""
    for pattern, problem, remedy in _KNOWN:
        if found := re.search(pattern, trace):
            return Reason(problem.format(**found.groupdict("")), remedy)
    return None


def exceptions_of(trace: str) -> tuple[str, ...]:
    """The names of a Java stack trace's exceptions, outermost first, without their messages."""
    heads = [line for line in trace.splitlines() if line and not line[0].isspace()]
    names = [head.removeprefix("Caused by: ").partition(":")[0].strip() for head in heads]
    known = [name.rpartition(".")[2] for name in names if name.replace(".", "").replace("$", "").isalnum()]
    return tuple(known[:EXCEPTIONS_MAX])
