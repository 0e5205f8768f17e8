"""The table of metrics, and what bounds its labels."""

import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from fleet.config import load
from fleet.messages.workers import EndpointStatus, WorkerStatus
from fleet.model_servers import EndpointConfig
from fleet.observability.health import Health
from fleet.observability.labels import MOST_LISTED, NONE, OTHER, Labels, Names
from fleet.observability.metrics import METRICS, Metrics
from fleet.observability.worker_gauges import show
from fleet.times import rfc3339

PROMISED = {
    "fleet_deliberations_accepted_total": {"role", "tenant"},
    "fleet_deliberations_total": {"status", "role", "tenant", "degraded"},
    "fleet_deliberation_seconds": {"status"},
    "fleet_overhead_seconds": set(),
    "fleet_phase_seconds": {"phase"},
    "fleet_calls_total": {"phase", "model", "endpoint", "outcome"},
    "fleet_call_seconds": {"phase", "model", "endpoint"},
    "fleet_time_to_first_token_seconds": {"model", "endpoint"},
    "fleet_tokens_total": {"kind", "model", "tenant"},
    "fleet_cost_total": {"model", "tenant"},
    "fleet_deliberations_in_progress": set(),
    "fleet_calls_open": {"endpoint"},
    "fleet_calls_waiting": {"model"},
    "fleet_breaker_open": {"endpoint"},
    "fleet_attempts_total": {"endpoint", "outcome"},
    "fleet_hedges_total": {"won"},
    "fleet_requests_waiting": set(),
    "fleet_oldest_request_seconds": set(),
    "fleet_consumer_pending": {"consumer"},
    "fleet_consumer_unacked": {"consumer"},
    "fleet_redelivered_total": {"consumer"},
    "fleet_dead_letters_total": {"reason"},
    "fleet_workers": {"state"},
    "fleet_rounds_saved_total": set(),
    "fleet_rejections_total": {"code"},
    "fleet_tokens_ahead": {"model"},
    "fleet_ready": set(),
}
"""What dashboards and alerts of others rely on."""
NOW = 1_767_225_600_000
README = (Path(__file__).parents[3] / "fleet" / "README.md").read_text()


@pytest.mark.parametrize("name", PROMISED)
def test_every_promised_metric_is_declared_with_its_labels(name: str) -> None:
    """And served from the beginning, at least as a name."""
    (metric,) = [metric for metric in METRICS if metric.name == name]
    assert set(metric.labels) == PROMISED[name]
    assert f"# TYPE {name}" in Health("test").scrape().decode()


def test_the_readme_names_every_metric() -> None:
    """With its labels, and no other."""
    rows = re.findall(r"^\| `(fleet_\w+)(?:\{([\w,]*)\})?` \|", README, flags=re.MULTILINE)
    told = {name: tuple(labels.split(",")) if labels else () for name, labels in rows}
    assert told == {metric.name: metric.labels for metric in METRICS}


def test_a_client_makes_no_label() -> None:
    """Names that no setting has are one value together, but for a few that servers list."""
    settings = load({"VLLM_URL": "http://gpu:8000", "VLLM_MODEL": "qwen"})
    labels = Labels(settings)
    assert [labels.role.of("DEV"), labels.role.of("HACKER")] == ["DEV", OTHER]
    assert [labels.model.of("qwen"), labels.model.of("anything"), labels.model.of(None)] == ["qwen", OTHER, NONE]
    assert [labels.endpoint.of("http://gpu:8000"), labels.endpoint.of("http://evil")] == ["http://gpu:8000", OTHER]
    values = {labels.model.of(f"listed-{number}", listed=True) for number in range(1000)}
    assert len(values) == MOST_LISTED + 1
    assert labels.model.of("listed-0") == "listed-0"


def test_names_of_endpoints_and_aliases_are_known() -> None:
    """Those of the long form."""
    names = Names({"gpu-1"})
    assert names.of("gpu-1") == "gpu-1"
    settings = load({"VLLM_URL": "http://gpu:8000"})
    given = {"gpu-1": EndpointConfig(url="http://a", models=("big",))}
    labels = Labels(type(settings)(vllm_urls=settings.vllm_urls, endpoints=given))
    assert [labels.endpoint.of("gpu-1"), labels.model.of("big")] == ["gpu-1", "big"]


def test_what_workers_tell_is_a_gauge_and_is_gone_with_them() -> None:
    """An endpoint that nobody tells of any more leaves no old number behind; an old status counts for nothing."""
    labels, metrics = Labels(load({"VLLM_URL": "http://a,http://b"})), Metrics()
    endpoints = (
        EndpointStatus(name="http://a", url="http://a", breaker="open", opened=1, open_calls=3),
        EndpointStatus(name="http://b", url="http://b", breaker="closed", opened=0, open_calls=1),
    )
    common = {"started_at": rfc3339(NOW), "done": 0, "failed": 0, "open_calls": 4, "last_fetch_age_s": 0.0}
    fresh = WorkerStatus(
        name="1", told_at=rfc3339(NOW), endpoints=endpoints, waiting_by_model={"m": 2, "n": 1}, **common
    )
    silent = WorkerStatus(name="2", told_at=rfc3339(NOW - 60_000), endpoints=endpoints, **common)
    show([fresh, silent], 3, labels, metrics, NOW)
    text = metrics.text().decode()
    assert 'fleet_calls_open{endpoint="http://a"} 3.0' in text
    assert 'fleet_breaker_open{endpoint="http://a"} 1.0' in text
    assert 'fleet_breaker_open{endpoint="http://b"} 0.0' in text
    assert 'fleet_calls_waiting{model="other"} 3.0' in text
    assert 'fleet_workers{state="missing"} 2.0' in text
    show([], 3, labels, metrics, NOW)
    text = metrics.text().decode()
    assert "fleet_calls_open{" not in text
    assert 'fleet_workers{state="missing"} 3.0' in text


def test_series_that_alerts_rate_begin_with_zero() -> None:
    """The first dead letter is an increase only where there was a zero before it."""
    text = Health("test").scrape().decode()
    for series in (
        'fleet_dead_letters_total{reason="exhausted"}',
        'fleet_rejections_total{code="invalid"}',
        'fleet_redelivered_total{consumer="workers"}',
        'fleet_hedges_total{won="true"}',
    ):
        assert f"{series} 0.0" in text


def test_the_text_is_that_of_prometheus_own_library() -> None:
    """Byte for byte, with odd names, large and infinite numbers, histograms, and series that come and go."""
    metrics = Metrics()
    for model in ("big", 'an "odd"\n\\name'):
        metrics["fleet_call_seconds"].at("propose", model, "http://a:1").observe(3.5)
        metrics["fleet_tokens_total"].at("prompt", model, "default").inc(123_456_789)
    metrics["fleet_requests_waiting"].at().set(float("inf"))
    for workers in ({"answering": 2.0, "missing": 1.0}, {"answering": 3.0}):
        metrics["fleet_workers"].replace(workers)
        assert metrics.text() == generate_latest(metrics.registry)
        assert metrics.text() == generate_latest(metrics.registry)
