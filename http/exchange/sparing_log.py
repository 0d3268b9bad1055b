"""Log lines that whoever sends requests can cause: each text once a while."""

import logging
import time

AGAIN_S = 60.0
"""How often a text is repeated, while requests by the thousand may cause it."""

TEXTS_MAX = 100
"""Texts told apart meanwhile: a reason for each shard, a place in the code for each odd connection."""


class SparingLog:
    """Errors of one kind."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[str, float] = {}

    def error(self, text: str) -> None:
        """Say it, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._said.get(text, -AGAIN_S) < AGAIN_S:
            return
        if len(self._said) >= TEXTS_MAX:
            self._said.clear()
        self._said[text] = now
        self._log.error("%s", text)
