"""HTTP/2 as Hypercorn speaks it, but for data of a request that has had its answer.

Hypercorn looks for the stream, which is gone, and its KeyError ends the connection, with all other requests on it
(seen: a POST that is refused before its body came). Such data is dropped (RFC 9113, 5.1), and counts for flow
control.
"""

from h2.events import DataReceived, Event
from hypercorn import protocol
from hypercorn.protocol.h2 import H2Protocol


class Http2(H2Protocol):
    """One HTTP/2 connection."""

    async def _handle_events(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, DataReceived) and event.stream_id not in self.streams:
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                await self._flush()
            else:
                await super()._handle_events([event])


def install() -> None:
    """Have Hypercorn use it. It takes the class by its name in its own module."""
    protocol.H2Protocol = Http2  # type: ignore[attr-defined]
