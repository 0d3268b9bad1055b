"""Limits on connections, the same in both lanes."""

HEAD_BYTES_MAX = 16 * 1024
"""Request line and headers. The longest cursor with the longest headers browsers send fits; more is a 431."""

HEADERS_MAX = 100
"""Headers of a request that the fast lane reads. Browsers behind three proxies send some forty."""

IDLE_S_MAX = 20.0
"""A connection without a whole request head for so long is closed: idle ones and dribbled headers alike.
Longer than clients' pools idle between polls, short enough that 10,000 idle ones do not pile up."""

UNMOVED_S_MAX = 120.0
"""A connection on which nothing moves for so long, and for as long as a request may wait, is closed. As long as a
client may take nothing of what it is sent."""

REQUESTS_PER_CONNECTION_MAX = 10_000
"""Then the connection is closed, so that long-lived clients spread over workers again."""

TURN_BYTES = 16 * 1024
"""What the fast lane reads at once before the other connections have their turn: some 100 pipelined requests."""

ANSWERED_BYTES = 64 * 1024
"""Answers to pipelined requests that are gathered before they are sent: a turn of pages of 500 rows is 30 MB."""

TURN_S = 0.005
"""How long pipelined requests are answered before the other connections have their turn."""

BODY_EVENTS_MAX = 4
"""Pieces of a request body that wait unread. No route reads one."""

H2_STREAMS_MAX = 100
"""Requests at once on one HTTP/2 connection. As RFC 9113 recommends at least: Java's client fails at 32."""
