"""The rules by Prometheus' own tool: their form, and what makes each of them fire."""

import subprocess

from tests.support.repository.monitoring import ALERTS, MONITORING, program


def promtool(*words: str) -> None:
    done = subprocess.run(
        [program("promtool"), *words], cwd=MONITORING, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_rules() -> None:
    """`promtool check rules`."""
    promtool("check", "rules", ALERTS.name)


def test_each_alert_fires_for_what_it_is_named_for() -> None:
    """And for nothing else; a quiet fleet fires none in ten minutes."""
    promtool("test", "rules", "alerts_test.yaml")
