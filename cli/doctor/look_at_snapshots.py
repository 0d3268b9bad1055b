"""What `kycache doctor` looks at: which shards the snapshot store could bring back. Decides nothing."""

import sys
from collections.abc import Mapping

from kycache.actors.files.directory import DataDirectory
from kycache.cli.settings.composition import opened_store
from kycache.cli.settings.loading import Settings
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.topic import describe_topic
from kycache.model.errors import Refused
from kycache.snapshots.home import home_facts
from kycache.snapshots.plan import TopicFacts, passed_over, step_of
from kycache.snapshots.storage.listing import Condition, newest_first

NONE_HOLDS_IT = "no snapshot holds it"


def look_at_store(
    settings: Settings, kafka: KafkaSettings, directory: DataDirectory, view: str
) -> Mapping[int, str]:
    """Shards that no snapshot could bring back now, each with why the newest one that holds it could not.

    Raises:
        Unreachable: store or broker do not answer.
        ConfigurationError, Refused: what is there cannot be read with these settings.
    """
    topic = describe_topic(kafka)
    facts = TopicFacts(topic.name, topic.id, topic.starts, topic.ends)
    home = home_facts(directory, view, kafka.times)._replace(free_bytes=sys.maxsize)  # room is another question
    lacking = dict.fromkeys(range(topic.partitions), NONE_HOLDS_IT)
    homes = dict.fromkeys(lacking, home)
    _, store, keys = opened_store(settings, None)
    for found in newest_first(store, keys):
        if found.condition is not Condition.WHOLE or found.manifest is None:
            continue
        for shard, why in list(lacking.items()):
            try:
                step = step_of(found.manifest, facts, homes[shard], shard)
            except Refused as error:
                lacking[shard] = error.problem if why == NONE_HOLDS_IT else why
                continue
            if step is None:
                homes[shard] = passed_over(homes[shard], found.manifest, facts)
            else:
                del lacking[shard]
        if not lacking:
            break
    return lacking
