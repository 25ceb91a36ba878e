"""The queries of our dashboard and alerts, and the names that a page of metrics has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
BRIDGE: Final = "logos_delivery_bridge_"
"""Beginning of the names that only a node with a bridge has."""
_WORDS = frozenset({"by", "on", "and", "or", "le", "sum", "rate", "increase", "histogram_quantile"}) | {
    "min_over_time",
    "label_values",
}


def names_in(query: str) -> set[str]:
    """The metric names of a PromQL query."""
    bare = re.sub(r'"[^"]*"', '""', query)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", bare)
    bare = re.sub(r"\b(by|on)\s*\([^)]*\)", " ", bare)
    return set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare)) - _WORDS


def dashboard_queries() -> list[str]:
    """Every query of the dashboard, its variables filled in as Grafana does."""
    dashboard: dict[str, Any] = json.loads((GRAFANA / "logos-node.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    values = {"${prefix}": "logos_delivery_", "$instance": "a:8008", "$__rate_interval": "1m"}
    for name, value in values.items():
        queries = [query.replace(name, value) for query in queries]
    return queries


def alert_queries() -> list[str]:
    return re.findall(r"^ *expr: (.+)$", (GRAFANA / "alerts.yml").read_text(), re.MULTILINE)


def served_names(page: str) -> set[str]:
    """The names of all series on the page."""
    return {one.name for family in text_string_to_metric_families(page) for one in family.samples}
