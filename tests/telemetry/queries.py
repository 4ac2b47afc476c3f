"""The queries of the dashboard and of the alerts as they ship."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "compose" / "observability"
ALERTS = FOLDER / "alerts.yml"
_METRIC = re.compile(r"\b(?:apibase|grpc_server|grpc_client|process|python)_\w+")
_GROUPED = re.compile(r"\bby \(([^)]*)\)")
_THRESHOLD = re.compile(r"(?:>|==) [\d.]+$", re.MULTILINE)


def dashboard() -> dict[str, Any]:
    return json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))


def dashboard_queries() -> dict[str, str]:
    """Return each panel's queries, by title and letter, as Grafana would send them for all apps."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "1m").replace("$app", ".*")
        for panel in dashboard()["panels"]
        for target in panel.get("targets", [])
    }


def alert_rules() -> dict[str, str]:
    """Return each alert's expression."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def alert_queries() -> dict[str, str]:
    """Return what each alert looks at, whatever its thresholds."""
    return {name: _THRESHOLD.sub(">= 0", expression.strip()) for name, expression in alert_rules().items()}


def metrics_of(query: str) -> set[str]:
    return set(_METRIC.findall(query)) - labels_of(query)


def labels_of(query: str) -> set[str]:
    """Return the labels that a query groups by."""
    return {label.strip() for found in _GROUPED.findall(query) for label in found.split(",")}
