"""Configures logs: structlog on standard error, JSON or lines for a person. No local variables, and no secrets."""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from io import StringIO
from json import dumps
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, WrappedLogger

from fleet.config import without_userinfo
from fleet.errors import ConfigError
from fleet.observability.retries import report_retries
from fleet.observability.visible import visible
from fleet.secret_files import SECRETS, content, file_of

HUMAN = ("human", "console")
SECRET_NAMES = re.compile(r"(API_KEY|TOKEN|PASSWORD|SECRET)$")
SHORTEST_SECRET = 4
"""What is shorter would be masked in the middle of words."""
_USERINFO = re.compile(r"(?<=://)[^/\s'\"@]*(?:@[^/\s'\"@]*)*@")
MASKED = "***"

Renderer = Callable[[WrappedLogger, str, EventDict], str | bytes]


def configure_logging(component: str, *, json: bool | None = None, level: str = "info") -> None:
    """Events go to standard error. `json` None: `FLEET_LOG` decides (`json`; `human` or `console`), else whether it is
    a terminal.

    `FLEET_LOG_LEVEL` filters, else `level`; info for a level that does not exist.
    """
    if json is None:
        format_ = os.environ.get("FLEET_LOG", "").strip().lower()
        json = format_ == "json" or (format_ not in HUMAN and not sys.stderr.isatty())
    least = logging.getLevelNamesMapping().get(os.environ.get("FLEET_LOG_LEVEL", level).upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers(json, os.environ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(component=component)
    report_retries()
    # Libraries that use the standard library's logging speak up for warnings only.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain(os.environ))
    logging.basicConfig(handlers=[handler], level=max(least, logging.WARNING))


def renderers(json: bool, environ: Mapping[str, str]) -> list[Any]:
    """The last steps of an event: what it becomes, without the secrets of `environ`."""
    mask = masking(environ)
    if json:
        # Without locals: they hold prompts, answers and settings.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return [
            structlog.processors.ExceptionRenderer(tracebacks),
            _masked(structlog.processors.JSONRenderer(), mask),
        ]
    console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_plain_traceback)
    return [_shown, _masked(console, mask)]


def masking(environ: Mapping[str, str]) -> Callable[[str], str]:
    """Takes the secrets that stand in `environ`, and whoever's name and password in any URL, out of a text."""
    forms = {form for secret in _secrets(environ) for form in (secret, dumps(secret)[1:-1])}
    secrets = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True)))) if forms else None

    def mask(text: str) -> str:
        text = _USERINFO.sub("", text)
        return secrets.sub(MASKED, text) if secrets else text

    return mask


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in _values(environ):
        if SECRET_NAMES.search(name) and len(value.strip()) >= SHORTEST_SECRET:
            yield value.strip()
        if name in ("NATS_URL", "VLLM_URL"):
            for url in value.split(","):
                userinfo = url.removesuffix(without_userinfo(url).rpartition("://")[2]).rpartition("://")[2]
                user, colon, password = userinfo.removesuffix("@").partition(":")
                secret = password if colon else user  # without a password it is a token
                if len(secret) >= SHORTEST_SECRET:
                    yield secret


def _values(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """With what lies in the files that are named instead of a secret."""
    files = {file_of(name): name for name in SECRETS}
    for setting, value in environ.items():
        name = files.get(setting)
        try:
            yield (setting, value) if name is None else (name, content(setting, value))
        except ConfigError:
            pass  # whoever needs it says so


def _masked(render: Renderer, mask: Callable[[str], str]) -> Renderer:
    def masked(logger: WrappedLogger, name: str, event: EventDict) -> str:
        text = render(logger, name, event)
        return mask(text if isinstance(text, str) else text.decode())

    return masked


def _shown(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Before the colours: those are escape sequences, too."""
    return {name: visible(value) if isinstance(value, str) else value for name, value in event.items()}


def _plain_traceback(out: TextIO, error: ExcInfo) -> None:
    text = StringIO()
    structlog.dev.plain_traceback(text, error)
    out.write(visible(text.getvalue()))


class _Plain(logging.Formatter):
    """What libraries log."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self._mask = masking(environ)

    def format(self, record: logging.LogRecord) -> str:
        return self._mask(visible(super().format(record)))
