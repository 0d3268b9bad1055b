"""What ingest is told: where Kafka is and how to read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kycache.model.partition import KeyForm
from kycache.model.scalars.times import TimePrecision
from kycache.model.view import HEARTBEAT_TABLE


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """The topic and how to reach it."""

    bootstrap: str
    topic: str = "kyc.changes"
    group: str = "kycache"
    key_form: KeyForm = KeyForm.PLAIN
    heartbeat_table: str = HEARTBEAT_TABLE
    security: Mapping[str, Any] = field(default_factory=dict)
    """Further client options of kafka-python: security_protocol, sasl_…, ssl_…."""

    times: TimePrecision | None = None
    """The unit of times in the log; None: what the data directory reads, and microseconds for a new one."""

    halt_on_poison: bool = False
    """A record that cannot be decoded stops its shard instead of going to quarantine."""

    @property
    def connection(self) -> dict[str, Any]:
        """Options that every client, consumer or admin, is made with."""
        return {"bootstrap_servers": self.bootstrap.split(","), **self.security}
