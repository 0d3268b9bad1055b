"""The log of a process: lines of JSON on stderr, or plain lines where a person looks at a terminal.

No personal data: what is logged names shards, offsets, tables and settings. Of an exception that a library logs,
its kind and where it happened are told, not its message; libraries speak only from warnings on (Kafka's client
from errors on).
"""

import logging
import sys

import structlog

from kycache.model.errors import whereabouts


def configure_log() -> None:
    """Send structlog's and the libraries' lines to stderr."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    end: structlog.typing.Processor
    end = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _without_messages, end],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    # Kafka's client warns at every try while the broker is away; ingest says it once, and when it is back.
    logging.getLogger("kafka").setLevel(logging.ERROR)
    logging.getLogger("kafka.net").setLevel(logging.CRITICAL)
    own = logging.getLogger("kycache")
    own.setLevel(logging.INFO)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: logging.getLogger("kycache"),
        cache_logger_on_first_use=True,
    )


def _without_messages(
    _logger: object, _name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """In place of a stack trace, which ends with a message that may hold values."""
    told = event.pop("exc_info", None)
    error = told[1] if isinstance(told, tuple) else told if isinstance(told, BaseException) else sys.exc_info()[1]
    if told and error is not None:
        event["exception"] = whereabouts(error)
    return event
