"""What commands ask the broker beside the topic itself: where its partitions end."""

import threading

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

from kycache.ingest.consuming.settings import KafkaSettings


def end_offsets(settings: KafkaSettings, topic: str, partitions: int, wait_s: float) -> dict[int, int] | None:
    """The end of each partition; None where the broker does not say within `wait_s`.

    Asked from a thread that may be left behind: looking up a name, connecting and asking have no common deadline.
    """
    found: list[dict[int, int]] = []

    def ask() -> None:
        wait_ms = int(wait_s * 1000)
        try:
            admin = KafkaAdminClient(
                **settings.connection, request_timeout_ms=wait_ms, bootstrap_timeout_ms=wait_ms
            )
        except (KafkaError, OSError, ValueError):
            return
        try:
            wanted = {TopicPartition(topic, n): OffsetSpec.LATEST for n in range(partitions)}
            ends = admin.list_partition_offsets(wanted, timeout_ms=wait_ms)
            found.append({tp.partition: end.offset for tp, end in ends.items()})
        except (KafkaError, OSError):
            return
        finally:
            admin.close()

    asking = threading.Thread(target=ask, name="end-offsets", daemon=True)
    asking.start()
    asking.join(wait_s)
    return found[0] if found else None
