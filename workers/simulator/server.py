"""Runs the simulated vLLM server on a port; its answers are made up, and depend on the request and the seed alone.

For the demo, tests, benchmarks and fault injection. Beside vLLM's endpoints it has two of its own, never
behind the key or a fault: `PUT /simulator/config` changes pace and faults for the requests that follow, and
`GET /simulator/calls?limit=100&bodies=no` tells what became of the latest ones.

    python -m workers.simulator --port 8000 --tokens-per-second 40 --fault stall=0.1
"""

import argparse
import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Self

import msgspec
from aiohttp import web
from msgspec import structs

from workers.simulator.api import SimulatedApi
from workers.simulator.chat import Call
from workers.simulator.config import EXPLAINED, ConfigChange, SimulatorConfig
from workers.simulator.faults import FAULT_KINDS, FaultKind, Faults

__all__ = [
    "FAULT_KINDS",
    "Call",
    "ConfigChange",
    "FaultKind",
    "Faults",
    "Simulator",
    "SimulatorConfig",
    "main",
    "serve",
]

_STOP_WITHIN_S = 0.1  # per step of the runner's shutdown; no answer here is worth waiting for


class Simulator:
    """The server, in this process: `async with Simulator(config) as simulator: … simulator.url …`."""

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self._api = SimulatedApi(config or SimulatorConfig())
        self._runner: web.AppRunner | None = None
        self._url: str | None = None

    @property
    def config(self) -> SimulatorConfig:
        return self._api.config

    @property
    def url(self) -> str:
        """Without `/v1`. Raises RuntimeError while the server is not up."""
        if self._url is None:
            raise RuntimeError("the simulator is not running")
        return self._url

    @property
    def requests(self) -> int:
        """Chat requests that came in, bad ones included."""
        return self._api.requests

    @property
    def running(self) -> int:
        return self._api.seats.running

    @property
    def most_running(self) -> int:
        """At any time since the start."""
        return self._api.seats.most_running

    @property
    def waiting(self) -> int:
        return self._api.seats.waiting

    @property
    def aborted(self) -> int:
        """Chat requests whose client left before the end, out of patience with a fault or not."""
        return self._api.aborted

    def calls(self, limit: int | None = None) -> list[Call]:
        """The latest chat requests, oldest first."""
        recorded = self._api.calls
        skipped = 0 if limit is None else max(0, len(recorded) - limit)
        return list(islice(recorded, skipped, None))

    def configure(self, change: ConfigChange) -> None:
        """Change pace or faults for the requests that follow; new faults count requests from 0 again."""
        self._api.change(change)

    async def start(self) -> None:
        """Listen. Raises OSError if the port is taken."""
        runner = web.AppRunner(
            self._api.application(),
            access_log=None,
            handler_cancellation=True,  # a client that leaves cancels its generation
            shutdown_timeout=_STOP_WITHIN_S,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self.config.host, self.config.port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        self._url = f"http://{host}:{runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Close the port and all connections; requests in flight are cut off. May be called twice."""
        runner, self._runner, self._url = self._runner, None, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


async def serve(config: SimulatorConfig, *, on_ready: Callable[[str], None]) -> None:
    """Serve until cancelled; `on_ready` gets the URL once it answers. Raises OSError if the port is taken."""
    async with Simulator(config) as simulator:
        on_ready(simulator.url)
        await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; one line on standard output, the URL, says that the server is ready."""
    config = parse_arguments(arguments)
    asyncio.run(_serve_until_signalled(config))


async def _serve_until_signalled(config: SimulatorConfig) -> None:
    serving = asyncio.ensure_future(serve(config, on_ready=lambda url: print(url, flush=True)))
    for signalled in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signalled, serving.cancel)
    with suppress(asyncio.CancelledError):
        await serving


def parse_arguments(arguments: Sequence[str] | None = None) -> SimulatorConfig:
    """The settings on a command line; exits with status 2 and a message for a bad one."""
    parser = argparse.ArgumentParser(
        prog="simulator", description="A simulated vLLM server.", argument_default=argparse.SUPPRESS
    )
    for setting in structs.fields(SimulatorConfig):
        if setting.name in ("models", "faults"):
            continue
        shown = "none" if setting.default is None else setting.default
        parser.add_argument(f"--{setting.name.replace('_', '-')}", help=f"{EXPLAINED[setting.name]}; default: {shown}")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="serve several models")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"may be repeated; names: {', '.join(Faults.__struct_fields__)}",
    )
    values: dict[str, Any] = vars(parser.parse_args(arguments))
    faults = values.pop("fault")
    values["faults"] = dict(fault.partition("=")[::2] for fault in faults)
    try:
        # Not strict: numbers come as text.
        return msgspec.convert(values, SimulatorConfig, strict=False)
    except msgspec.ValidationError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
