"""`kycache.toml` of a demo: with it every other command speaks to the demo, and ingest and web are started."""

import json
from pathlib import Path

from kycache.demo.servers.layout import TOPIC, Layout
from kycache.demo.servers.ports import HOST

FILE_NAME = "kycache.toml"
GROUP = "kycache"


def write_configuration(layout: Layout, http: int, connect_url: str | None) -> Path:
    """Writes the file into the demo's folder, for its owner only: it holds a password. Returns its path."""
    settings = layout.connector
    sections: dict[str, dict[str, str | int]] = {
        "data": {"dir": str(layout.directory / "data")},
        "kafka": {"bootstrap": layout.bootstrap, "topic": TOPIC, "group": GROUP},
        "source": {"dsn": layout.postgres.dsn},
        "connector": {
            "name": settings.name,
            "topic_prefix": settings.topic_prefix,
            "slot": settings.slot,
            "publication": settings.publication,
            "partitions": layout.partitions,
        },
        "http": {"host": HOST, "port": http},
        "snapshots": {"store": (layout.directory / "snapshots").as_uri()},
    }
    if connect_url:
        sections["connect"] = {"url": connect_url}
    text = "# Written by `kycache demo` at every start.\n" + "".join(
        f"\n[{name}]\n"
        + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
        for name, values in sections.items()
    )
    path = layout.directory / FILE_NAME
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return path
