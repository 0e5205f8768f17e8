"""Logging: structlog on standard error, JSON for machines, colours for a person."""

import logging
import os
import sys
from typing import Any

import structlog


def configure_logging(component: str, *, json: bool | None = None) -> None:
    """Events go to standard error. `json` None: `FLEET_LOG` (`json` or `human`) decides, else whether it is a terminal.

    `FLEET_LOG_LEVEL` filters: info by default, and for a level that does not exist.
    """
    if json is None:
        wanted = os.environ.get("FLEET_LOG", "")
        json = wanted == "json" or (wanted != "human" and not sys.stderr.isatty())
    level = logging.getLevelNamesMapping().get(os.environ.get("FLEET_LOG_LEVEL", "info").upper(), logging.INFO)
    renderer: Any = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # The console renderer prints tracebacks itself.
            *([structlog.processors.dict_tracebacks] if json else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(component=component)
    # Libraries that use the standard library's logging speak up for warnings only.
    logging.basicConfig(
        stream=sys.stderr, level=max(level, logging.WARNING), format="%(levelname)s %(name)s: %(message)s"
    )
