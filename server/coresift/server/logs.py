"""Structured logs: one JSON object a line on standard error."""

from __future__ import annotations

import logging
import secrets
import sys
import threading
from types import TracebackType
from typing import Any

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from coresift.server.config import Calls, LogConfig
from coresift.server.errors import StartError
from coresift.server.hidden_names import HASH_KEY_BYTES, Hiding

UNNAMED = "unnamed"
"""Key of an annotator whom the log may not name: it gets a hash there, or nothing."""


def configure_logs(config: LogConfig = LogConfig()) -> None:  # noqa: B008 - it is frozen
    """Send structlog's events, the libraries' warnings and whatever nobody caught to standard
    error as JSON. StartError: the key is too short."""
    level = getattr(logging, config.level.upper())
    hide = _hiding(config) if config.hashes else _leave_out_unnamed
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Without local variables: they hold requests, annotators, tokens and URLs with passwords.
        structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        ),
        hide,
    ]
    only: list[Processor] = [] if config.calls is Calls.ALL else [_drop_calls_that_went_well]
    structlog.configure(
        processors=[*only, *shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _take_in_libraries(shared, max(level, logging.WARNING))
    _take_in_crashes()
    if config.hashes and not config.hash_key:
        structlog.get_logger().warning(
            "hashes of the log are of this process alone: set CORESIFT_LOG_HASH_KEY"
        )


def _hiding(config: LogConfig) -> Hiding:
    key = config.hash_key.encode()
    if key and len(key) < HASH_KEY_BYTES:
        raise StartError(
            f"CORESIFT_LOG_HASH_KEY must have at least {HASH_KEY_BYTES} bytes, got {len(key)}: "
            "names are few, and whoever guesses the key can try them"
        )
    return Hiding(key or secrets.token_bytes(HASH_KEY_BYTES), UNNAMED)


def _leave_out_unnamed(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    event.pop(UNNAMED, None)
    return event


def _drop_calls_that_went_well(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    if event.get("event") == "call" and event.get("code") == "OK":
        raise structlog.DropEvent
    return event


def _take_in_libraries(shared: list[Processor], level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(_tells_more_than_a_client_that_left)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def _tells_more_than_a_client_that_left(record: logging.LogRecord) -> bool:
    # gRPC tells of each answer that it could not send as an error, with a traceback.
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ != "ExecuteBatchError"


def _take_in_crashes() -> None:
    """What ends the process or a thread, or is raised where nobody can catch it."""
    log = structlog.get_logger()

    def crashed(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, traceback)
        else:
            log.critical("crashed", exc_info=error)

    def thread_crashed(args: threading.ExceptHookArgs) -> None:
        name = "" if args.thread is None else args.thread.name
        if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
            log.error("a thread crashed", thread=name, exc_info=args.exc_value)

    def not_raised(args: Any) -> None:  # sys.UnraisableHookArgs, which runs only for stubs
        if args.exc_value is not None:
            log.error("an exception that nobody can catch", exc_info=args.exc_value)

    sys.excepthook = crashed
    threading.excepthook = thread_crashed
    sys.unraisablehook = not_raised
