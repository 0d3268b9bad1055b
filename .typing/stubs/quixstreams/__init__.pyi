# What bench/peers/quix.py uses: a check finds the same with the bench extra and without it.
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

from .models import TopicConfig

K = TypeVar("K")
V = TypeVar("V")

class State(Generic[K, V]):
    def get(self, key: K) -> V | None: ...
    def set(self, key: K, value: V) -> None: ...

class Topic: ...

class StreamingDataFrame:
    def filter(self, func: Callable[[Any], bool]) -> StreamingDataFrame: ...
    def update(
        self, func: Callable[[Any, State[Any, Any]], object], *, stateful: Literal[True]
    ) -> StreamingDataFrame: ...

class Application:
    def __init__(
        self,
        broker_address: str,
        *,
        consumer_group: str,
        auto_offset_reset: Literal["earliest", "latest"],
        state_dir: str,
        use_changelog_topics: bool,
        auto_create_topics: bool,
        loglevel: str,
    ) -> None: ...
    def topic(self, name: str, value_deserializer: str, *, config: TopicConfig) -> Topic: ...
    def dataframe(self, topic: Topic) -> StreamingDataFrame: ...
    def run(self, *, timeout: float) -> list[dict[str, Any]]: ...
