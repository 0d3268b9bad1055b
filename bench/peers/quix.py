"""A peer of `bench/ingest.py`: Quix Streams joins rows per user, in its RocksDB; reads to the end and ends.

    python bench/peers/quix.py BOOTSTRAP TOPIC FOLDER [changelog]

It knows no versions, delete markers, quarantine, watermarks, counts or order: the least that a join needs.
"""

# pyright: reportMissingModuleSource=false
# A check need not have the bench extra.
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quixstreams import State

KEYS = {"users": "user_id", "kyc_records": "kyc_id", "accounts": "account_id"}
ENDS_AFTER_S = 3.0
"""It ends when nothing came for so long; that wait costs no CPU to speak of."""


def run(bootstrap: str, topic: str, folder: str, changelog: str = "") -> None:
    """With a changelog topic, its default, or without, which costs less: our store is rebuilt from the log too."""
    from quixstreams import Application
    from quixstreams.models import TopicConfig

    application = Application(
        broker_address=bootstrap,
        consumer_group=f"quix{changelog}",
        auto_offset_reset="earliest",
        state_dir=folder,
        use_changelog_topics=bool(changelog),
        auto_create_topics=bool(changelog),
        loglevel="WARNING",
    )
    config = TopicConfig(num_partitions=4, replication_factor=1)
    frame = application.dataframe(application.topic(topic, value_deserializer="json", config=config))
    frame = frame.filter(lambda value: value is not None and value["source"]["table"] in KEYS)
    frame.update(join, stateful=True)
    application.run(timeout=ENDS_AFTER_S)


def join(event: dict[str, Any], state: State[str, dict[str, Any]]) -> None:
    """One row into its user's profile."""
    profile = state.get("profile") or {}
    table = event["source"]["table"]
    row = event["after"] or event["before"]
    key = f"{table}:{row[KEYS[table]]}"
    if event["op"] == "d":
        profile.pop(key, None)
    else:
        profile[key] = event["after"]
    state.set("profile", profile)


if __name__ == "__main__":
    run(*sys.argv[1:])
