"""The log of a process: lines of JSON on stderr, or plain lines where a person looks at a terminal.

No personal data: what is logged names shards, offsets, tables and settings. Tracebacks are printed without the
values of local variables, and libraries speak only from warnings on (Kafka's client from errors on).
"""

import logging
import sys

import structlog


def configure_log() -> None:
    """Send structlog's and the libraries' lines to stderr."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    end: list[structlog.typing.Processor]
    if sys.stderr.isatty():
        # Not the default formatter of exceptions, which shows local variables.
        end = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        end = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *end],
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
