"""In the place of prometheus-adapter: the rule that components/hpa-models names, of what the collectors tell.

A program for a pod that has Python alone. Its arguments: key and certificates, then the collectors' addresses.
"""

import datetime
import http.server
import json
import pathlib
import re
import ssl
import sys
import time
import urllib.request
from collections.abc import Sequence

PEM = pathlib.Path("/tmp/pem")
WEIGHTS = {"fleet_calls_ahead": 1, "fleet_requests_waiting": 12}
EXPECTED, START_S, ARRIVED_IN_S = "fleet_calls_expected_total", 45, 30
seen: list[tuple[float, float]] = []
"""When, and how many calls had been expected by then."""
GROUP = "external.metrics.k8s.io/v1beta1"
NAME, KIND = "fleet_work_ahead", "ExternalMetricValueList"
RESOURCE = {"name": NAME, "singularName": "", "namespaced": True, "verbs": ["get"], "kind": KIND}
RESOURCES = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP, "resources": [RESOURCE]}


def work_ahead(collectors: Sequence[str]) -> int:
    """The highest of what they tell: each tells the same number. And what arrives, of which each tells its part."""
    pages = [urllib.request.urlopen(f"http://{each}:9464/metrics", timeout=3).read().decode() for each in collectors]

    def highest(name: str) -> float:
        return max(float(value) for page in pages for value in re.findall(rf"^{name}(?:{{.*}})? (.*)$", page, re.M))

    expected = sum(float(value) for page in pages for value in re.findall(rf"^{EXPECTED} (.*)$", page, re.M))
    now = time.monotonic()
    seen[:] = [*((when, count) for when, count in seen if when > now - ARRIVED_IN_S), (now, expected)]
    arriving = max(0.0, expected - seen[0][1]) / ARRIVED_IN_S
    return int(sum(weight * highest(name) for name, weight in WEIGHTS.items()) + START_S * arriving)


class Page(http.server.BaseHTTPRequestHandler):
    """What the API server asks: which metrics there are, and the value of the one."""

    def do_GET(self) -> None:
        if self.path.partition("?")[0].endswith(f"/{NAME}"):
            now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            value = {"metricName": NAME, "metricLabels": {}, "timestamp": now, "value": str(work_ahead(sys.argv[2:]))}
            answer = {"kind": KIND, "apiVersion": GROUP, "metadata": {}, "items": [value]}
        else:
            answer = RESOURCES
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


if __name__ == "__main__":
    PEM.write_text(sys.argv[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    server = http.server.ThreadingHTTPServer(("", 8443), Page)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
