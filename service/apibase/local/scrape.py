"""Prometheus' configuration for a stack: every app and every sidecar, and the project's alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from apibase.local.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from apibase.local.instance import Instance

_EVERY = "5s"
# Beside the topology's file.
ALERTS = "observability/alerts.yml"


def write_scrape_config(folder: Path, instances: Sequence[Instance], alerts: Path) -> Path:
    """Write it and return its path. `alerts` is the file of rules, of which there need be none.

    Apps are the job `apibase`, sidecars the job `daprd`; the labels `app` and `replica` say which.
    """
    targets = {
        "apibase": [(each.ports.app_metrics, each) for each in instances],
        "daprd": [(each.ports.metrics, each) for each in instances],
    }
    file = folder / "prometheus.yml"
    file.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": _EVERY, "evaluation_interval": _EVERY},
                "rule_files": [str(alerts)] if alerts.is_file() else [],
                "scrape_configs": [
                    {"job_name": job, "static_configs": list(_static(found))} for job, found in targets.items()
                ],
            },
            sort_keys=False,
        )
    )
    return file


def _static(found: Iterable[tuple[int, Instance]]) -> Iterable[dict[str, object]]:
    for port, instance in found:
        if port:
            labels = {"app": instance.spec.app_id, "replica": str(instance.replica)}
            yield {"targets": [f"{LOOPBACK}:{port}"], "labels": labels}
