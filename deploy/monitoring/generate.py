"""Writes the Grafana dashboards beside it, and the alerts for the Prometheus operator. Run it after a change.

A test compares.
"""

import json
import textwrap
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, COLUMNS = 8, 8, 3


def _p95(metric: str, *by: str) -> str:
    labels = ", ".join(("le", *by))
    return f"histogram_quantile(0.95, sum by ({labels}) (rate({metric}_bucket[$__rate_interval])))"


ON_CALL = (
    ("Ready processes", "sum(fleet_ready)", "", "short"),
    ("Problems", "max by (problem) (fleet_problem)", "{{problem}}", "short"),
    ("Workers", "max by (state) (fleet_workers)", "{{state}}", "short"),
    ("Deliberations in progress", "max(fleet_deliberations_in_progress)", "", "short"),
    ("Requests that wait", "max(fleet_requests_waiting)", "", "short"),
    ("Oldest request", "max(fleet_oldest_request_seconds)", "", "s"),
    ("Accepted per minute", "60 * sum(rate(fleet_deliberations_accepted_total[$__rate_interval]))", "", "short"),
    (
        "Ended per minute",
        "60 * sum by (status) (rate(fleet_deliberations_total[$__rate_interval]))",
        "{{status}}",
        "short",
    ),
    (
        "Time to the end, p95",
        _p95("fleet_deliberation_seconds"),
        "p95",
        "s",
    ),
    (
        "Overhead, p95",
        _p95("fleet_overhead_seconds"),
        "p95",
        "s",
    ),
    (
        "Phase, p95",
        _p95("fleet_phase_seconds", "phase"),
        "{{phase}}",
        "s",
    ),
    (
        "Call, p95 by endpoint",
        _p95("fleet_call_seconds", "endpoint"),
        "{{endpoint}}",
        "s",
    ),
    (
        "Time to first token, p95",
        _p95("fleet_time_to_first_token_seconds", "endpoint"),
        "{{endpoint}}",
        "s",
    ),
    (
        "Calls per minute by outcome",
        "60 * sum by (outcome) (rate(fleet_calls_total[$__rate_interval]))",
        "{{outcome}}",
        "short",
    ),
    (
        "Attempts per minute by endpoint and outcome",
        "60 * sum by (endpoint, outcome) (rate(fleet_attempts_total[$__rate_interval]))",
        "{{endpoint}} {{outcome}}",
        "short",
    ),
    ("Open attempts", "max by (endpoint) (fleet_calls_open)", "{{endpoint}}", "short"),
    ("Breakers open", "max by (endpoint) (fleet_breaker_open)", "{{endpoint}}", "short"),
    ("Messages to deliver", "max by (consumer) (fleet_consumer_pending)", "{{consumer}}", "short"),
    ("Messages not acknowledged", "max by (consumer) (fleet_consumer_unacked)", "{{consumer}}", "short"),
    (
        "Delivered again, per minute",
        "60 * sum by (consumer) (rate(fleet_redelivered_total[$__rate_interval]))",
        "{{consumer}}",
        "short",
    ),
    (
        "Dead letters in the last hour",
        "sum by (reason) (increase(fleet_dead_letters_total[1h]))",
        "{{reason}}",
        "short",
    ),
    ("Rejections in the last hour", "sum by (code) (increase(fleet_rejections_total[1h]))", "{{code}}", "short"),
)

COST = (
    (
        "Tokens per hour by model",
        "3600 * sum by (model, kind) (rate(fleet_tokens_total[$__rate_interval]))",
        "{{model}} {{kind}}",
        "short",
    ),
    (
        "Tokens per hour by tenant",
        '3600 * sum by (tenant) (rate(fleet_tokens_total{kind=~"prompt|completion"}[$__rate_interval]))',
        "{{tenant}}",
        "short",
    ),
    (
        "Cached share of the prompts",
        'sum by (model) (rate(fleet_tokens_total{kind="cached"}[$__rate_interval]))'
        ' / sum by (model) (rate(fleet_tokens_total{kind="prompt"}[$__rate_interval]))',
        "{{model}}",
        "percentunit",
    ),
    (
        "Cost per hour",
        "3600 * sum by (model, tenant) (rate(fleet_cost_total[$__rate_interval]))",
        "{{tenant}} {{model}}",
        "short",
    ),
    ("Cost in the last day", "sum by (tenant) (increase(fleet_cost_total[1d]))", "{{tenant}}", "short"),
    (
        "Tokens of one deliberation",
        'sum(rate(fleet_tokens_total{kind=~"prompt|completion"}[$__rate_interval]))'
        " / sum(rate(fleet_deliberations_total[$__rate_interval]))",
        "",
        "short",
    ),
    ("Tokens ahead", "max by (model) (fleet_tokens_ahead)", "{{model}}", "short"),
    ("Rounds saved per hour", "3600 * sum(rate(fleet_rounds_saved_total[$__rate_interval]))", "", "short"),
    (
        "Calls that failed, share",
        '1 - sum(rate(fleet_calls_total{outcome="completed"}[$__rate_interval]))'
        " / sum(rate(fleet_calls_total[$__rate_interval]))",
        "",
        "percentunit",
    ),
    (
        "Deliberations per hour by tenant",
        "3600 * sum by (tenant) (rate(fleet_deliberations_total[$__rate_interval]))",
        "{{tenant}}",
        "short",
    ),
)


def dashboard(title: str, uid: str, panels: tuple[tuple[str, str, str, str], ...]) -> dict[str, Any]:
    """In Grafana's form, with the data source as a variable."""
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "title": title,
        "uid": uid,
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "tags": ["fleet"],
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": [
            {
                "id": number + 1,
                "type": "timeseries",
                "title": name,
                "datasource": source,
                "gridPos": {
                    "h": HEIGHT,
                    "w": WIDTH,
                    "x": number % COLUMNS * WIDTH,
                    "y": number // COLUMNS * HEIGHT,
                },
                "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                "targets": [{"refId": "A", "datasource": source, "expr": expr, "legendFormat": legend or name}],
            }
            for number, (name, expr, legend, unit) in enumerate(panels)
        ],
    }


DASHBOARDS = {
    "on-call.json": dashboard("Fleet: on call", "fleet-on-call", ON_CALL),
    "cost.json": dashboard("Fleet: tokens and cost", "fleet-cost", COST),
}


FOLDER = Path(__file__).parent
RULES = FOLDER / "alerts.yaml"
PROMETHEUS_RULE = FOLDER.parent / "kubernetes" / "components" / "monitoring" / "prometheus-rule.yaml"


def prometheus_rule() -> str:
    """The rules as the Prometheus operator takes them."""
    head = """\
# Made by deploy/monitoring/generate.py from deploy/monitoring/alerts.yaml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: fleet
spec:
"""
    body = RULES.read_text()
    return head + textwrap.indent(body[body.index("groups:") :], "  ")


if __name__ == "__main__":
    for name, board in DASHBOARDS.items():
        (FOLDER / name).write_text(json.dumps(board, indent=1) + "\n")
    PROMETHEUS_RULE.write_text(prometheus_rule())
