"""Makes loggers that import structlog with their first event: a user of the client alone need not load it."""

from typing import Any


class Logger:
    """As structlog's, under the name of a module."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        import structlog

        return getattr(structlog.get_logger(self._name), method)
