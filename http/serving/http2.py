"""HTTP/2 as Hypercorn speaks it, but for two things it does wrong (seen, 0.18).

Data of a request that has had its answer (a POST that was refused before its body came): it looks for the stream,
which is gone, and its KeyError ends the connection with all other requests on it. Such data is dropped (RFC 9113,
5.1), and counts for flow control.

An answer that the client takes slowly, or not at all: whoever sends is let go on when little was taken, not when
little is left, so that the whole of an export came to lie in memory.
"""

from h2.events import DataReceived, Event
from hypercorn import protocol
from hypercorn.protocol import h2
from hypercorn.protocol.h2 import BUFFER_LOW_WATER, H2Protocol, StreamBuffer


class Buffer(StreamBuffer):
    """What of one answer waits for the client's window."""

    async def pop(self, max_length: int) -> bytes:
        """At most so many bytes of it."""
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class Http2(H2Protocol):
    """One HTTP/2 connection."""

    async def _handle_events(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, DataReceived) and event.stream_id not in self.streams:
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                await self._flush()
            else:
                await super()._handle_events([event])


def correct_hypercorn() -> None:
    """Have this process's Hypercorn use them from now on; `serve` does so, and a second time changes nothing.

    Hypercorn has no setting for it: it takes both classes by their names in its own modules.
    """
    protocol.H2Protocol = Http2  # type: ignore[attr-defined]
    h2.StreamBuffer = Buffer  # type: ignore[misc]
