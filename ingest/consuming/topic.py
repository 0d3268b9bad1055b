"""The topic as the broker describes it: its id and partitions, and where its log starts."""

from typing import Any, NamedTuple

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import GroupIdNotFoundError, KafkaConfigurationError, KafkaError

from kycache.model.errors import ConfigurationError, Unreachable

from .settings import KafkaSettings

ANSWER_WAIT_MS = 10_000
"""How long one question to the broker may take: longer than a leader election."""


class Topic(NamedTuple):
    """What identifies a topic (recreated under its name it has another id), and what its log holds."""

    name: str
    id: str
    partitions: int
    starts: tuple[int, ...]
    """Per partition, the first offset that the log still holds."""
    ends: tuple[int, ...] = ()
    """Per partition, the offset of the next record to come."""


def describe_topic(settings: KafkaSettings, wait_ms: int = ANSWER_WAIT_MS) -> Topic:
    """Ask the broker. Blocking.

    Raises:
        Unreachable: no broker answers, or it has no such topic.
    """
    try:
        admin = KafkaAdminClient(**settings.connection, request_timeout_ms=wait_ms, bootstrap_timeout_ms=wait_ms)
    except KafkaConfigurationError as error:
        raise ConfigurationError(f"kafka-python refuses the settings: {error}", "mend `[kafka]`") from None
    except (KafkaError, OSError, ValueError) as error:
        raise _unreachable(settings, error) from None
    try:
        described: list[dict[str, Any]] = admin.describe_topics([settings.topic])
        found = next((t for t in described if t.get("name") == settings.topic), None)
        if found is None or found.get("error_code", 0) or not found.get("partitions"):
            raise Unreachable(
                f"the broker at {settings.bootstrap} has no topic {settings.topic!r}",
                "create it and start the connector (`kycache connector` prints its configuration), "
                "or set `[kafka] topic`",
            )
        partitions = [TopicPartition(settings.topic, p) for p in range(len(found["partitions"]))]
        starts = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
        ends = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
    except (KafkaError, OSError, KeyError, ValueError) as error:  # the client's, in the midst of an election
        raise _unreachable(settings, error) from None
    finally:
        admin.close()
    return Topic(
        settings.topic,
        str(found["topic_id"]),
        len(partitions),
        tuple(starts[p].offset for p in partitions),
        tuple(ends[p].offset for p in partitions),
    )


def foreign_members(settings: KafkaSettings, ours: str, place: str) -> list[str]:
    """Members of the group that work on another data directory, or on a copy of this one. Blocking.

    Args:
        ours: what the instance ids of this directory's members begin with; those of a copy do too.
        place: what their client ids end with (`DataDirectory.place`), which a copy's do not.

    Raises:
        KafkaError, OSError: it could not be asked, or has no coordinator at present; that is not to have none.
    """
    admin = KafkaAdminClient(
        **settings.connection, request_timeout_ms=ANSWER_WAIT_MS, bootstrap_timeout_ms=ANSWER_WAIT_MS
    )
    try:
        groups: dict[str, Any] = admin.describe_groups([settings.group])
    except ValueError:
        # Tansu, the demo's embedded broker, allows operations that Kafka does not have, at which the client stops.
        # It runs for one demo, and has no members of others.
        return []
    finally:
        admin.close()
    group = groups.get(settings.group, {})
    problem = str(group.get("error") or "")
    if problem and GroupIdNotFoundError.__name__ not in problem:  # not found: nobody ever joined it
        raise KafkaError(problem)
    names = {
        str(m.get("group_instance_id") or m.get("member_id")): str(m.get("client_id") or "")
        for m in group.get("members") or []
    }
    return [name for name, client in names.items() if not (name.startswith(ours) and client.endswith(place))]


def _unreachable(settings: KafkaSettings, error: Exception) -> Unreachable:
    return Unreachable(
        f"no Kafka broker answers at {settings.bootstrap}: {type(error).__name__}",
        "check `[kafka] bootstrap` and that the broker runs",
    )
