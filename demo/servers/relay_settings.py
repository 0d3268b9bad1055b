"""What the embedded stack tells its Debezium process."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What the relay is told, through a file: a password must not stand in a command line."""

    bootstrap: str
    topic: str
    jvm_options: list[str]
    properties: dict[str, str] = field(repr=False)

    def write(self, path: Path) -> None:
        """Writes the settings for the owner's eyes only."""
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> "RelaySettings":
        """What `write` wrote."""
        return RelaySettings(**json.loads(path.read_text(encoding="utf-8")))


def engine_properties(config: dict[str, str], name: str, offsets: Path) -> dict[str, str]:
    """A connector configuration as the embedded engine takes it.

    The engine's JSON format brings its own key converter, which quotes the key; the relay unquotes it.
    Topics and the producer are the relay's affair.
    """
    passed = {
        k: v for k, v in config.items() if not k.startswith(("topic.creation.", "key.converter", "producer."))
    }
    return {
        **passed,
        "name": name,
        "key.converter.schemas.enable": "false",
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": str(offsets),
        "offset.flush.interval.ms": "1000",
    }
