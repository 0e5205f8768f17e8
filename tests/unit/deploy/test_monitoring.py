"""Rules and dashboards name what the fleet serves."""

import re
import runpy
from collections.abc import Iterator

import pytest
import yaml

from fleet.observability.metrics import METRICS
from tests.support.repository.deploy import KUBERNETES
from tests.support.repository.monitoring import ALERTS, MONITORING, load_dashboards

COMPONENT = KUBERNETES / "components" / "monitoring"
SERVED = {
    name
    for metric in METRICS
    for name in (
        (f"{metric.name}_bucket", f"{metric.name}_sum", f"{metric.name}_count")
        if metric.kind == "histogram"
        else (metric.name,)
    )
}
LABELS = {label for metric in METRICS for label in metric.labels} | {"le", "job", "instance"}


def alerts() -> list[dict[str, object]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in alerts():
        yield str(rule["alert"]), str(rule["expr"])
    for name, board in load_dashboards().items():
        for panel in board["panels"]:
            yield f"{name}: {panel['title']}", panel["targets"][0]["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_expression_asks_for_what_is_served(where: str, expression: str) -> None:
    """Metrics and labels that exist."""
    names = set(re.findall(r"fleet_\w+", expression))
    assert names <= SERVED
    used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
    for by in re.findall(r"by \(([\w, ]*)\)", expression):
        used |= {label.strip() for label in by.split(",")}
    assert used <= LABELS


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    """Whom it wakes, what it means, what to look at."""
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert len(rule["annotations"]["runbook"].split()) > 15


def test_files_are_made_by_their_script() -> None:
    """`python deploy/monitoring/generate.py` was run after the last change."""
    made = runpy.run_path(str(MONITORING / "generate.py"))
    assert made["DASHBOARDS"] == load_dashboards()
    assert made["PROMETHEUS_RULE"].read_text() == made["prometheus_rule"]()


def test_kubernetes_gets_the_same_alerts() -> None:
    """The object for the Prometheus operator has the groups of the rules file."""
    rule = yaml.safe_load((COMPONENT / "prometheus-rule.yaml").read_text())
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text())
    assert "prometheus-rule.yaml" in yaml.safe_load((COMPONENT / "kustomization.yaml").read_text())["resources"]


def test_the_panels_do_not_overlap() -> None:
    """Each has a place of its own."""
    for board in load_dashboards().values():
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(set(places)) == len(places)
