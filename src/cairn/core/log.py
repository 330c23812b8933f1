"""Structured logs: one line an event, request id included, secrets masked before anything is written.

A terminal gets readable lines, everything else JSON.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

SECRET_KEYS = ("password", "secret", "token", "admin_pass", "private_key", "user_data")
MASK = "***"


def mask_secrets(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> Any:
    """Replace values whose key names a secret, at any depth of mappings."""
    return _masked(event)


def _masked(value: Any) -> Any:
    if isinstance(value, MutableMapping):
        return {
            key: MASK if any(s in str(key).lower() for s in SECRET_KEYS) else _masked(inner)
            for key, inner in value.items()
        }
    return value


def configure(*, debug: bool = False) -> None:
    """Set up logging of this process, once, to standard error."""
    renderer: Any = (
        # Plain tracebacks: rich ones print local variables, passwords among them.
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            mask_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.INFO
        ),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def get(name: str) -> Any:
    """A logger whose lines carry `part=name`. It asks how to log when it first does, not before."""
    return structlog.get_logger(part=name)
