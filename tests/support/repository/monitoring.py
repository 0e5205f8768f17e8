"""What lies in deploy/monitoring, and a real Prometheus that uses it."""

import asyncio
import json
import shutil
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.nats.servers import free_ports
from tests.support.waiting import until

MONITORING = Path(__file__).parents[3] / "deploy" / "monitoring"
ALERTS = MONITORING / "alerts.yaml"
SCRAPED_EVERY_S = 2


def load_dashboards() -> dict[str, Any]:
    """By file name."""
    return {name: json.loads((MONITORING / name).read_text()) for name in ("on-call.json", "cost.json")}


def program(name: str) -> str:
    """`promtool` or `prometheus`."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"no {name}: `make test-monitoring` brings it")
    return path


class Prometheus:
    """One that scrapes, evaluates the shipped rules, and answers."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Samples of an instant query."""
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self._url}/api/v1/query", params={"query": expression}) as reply,
        ):
            body = await reply.json()
        assert body["status"] == "success", body
        return list(body["data"]["result"])

    async def firing(self) -> set[str]:
        """Names of alerts."""
        return {sample["metric"]["alertname"] for sample in await self.query('ALERTS{alertstate="firing"}')}


@asynccontextmanager
async def prometheus(directory: Path, ports: Sequence[int]) -> AsyncIterator[Prometheus]:
    """Scrapes components on these ports of loopback."""
    (port,) = free_ports(1)
    config = _configuration(directory, ports)
    process: Process = await asyncio.create_subprocess_exec(
        program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        made = Prometheus(f"http://127.0.0.1:{port}")

        async def answers() -> bool:
            await made.query("up")
            return True

        await until(answers, not_yet=(aiohttp.ClientError, OSError))
        yield made
    finally:
        process.terminate()
        await process.wait()


def _configuration(directory: Path, ports: Sequence[int]) -> Path:
    directory.mkdir(exist_ok=True)
    interval = f"{SCRAPED_EVERY_S}s"
    targets = [f"127.0.0.1:{each}" for each in ports]
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [{"job_name": "fleet", "static_configs": [{"targets": targets}]}],
    }
    file = directory / "prometheus.yaml"
    file.write_text(json.dumps(config))
    return file
