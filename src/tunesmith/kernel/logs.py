"""Logs: on standard error, a line of JSON each, or a line for a person at a terminal."""

import logging
import sys
from contextvars import ContextVar

import structlog
from structlog.typing import EventDict

request_id: ContextVar[str] = ContextVar("tunesmith_request_id", default="")  # of the request being answered


def with_request_id(_: object, __: str, event: EventDict) -> EventDict:
    """A structlog processor: the line says which request it belongs to."""
    if found := request_id.get():
        event["request_id"] = found
    return event


def log_to_stderr(level: str) -> None:
    """Log ``level`` and above; standard output belongs to results.

    Tracebacks are plain: the pretty kind prints local variables, and those hold people's prompts.
    """
    human = sys.stderr.isatty()
    last = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if human
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    structlog.configure(
        processors=[
            with_request_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if human else "iso", utc=not human),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        # asked for at each line: standard error may be another by then
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
