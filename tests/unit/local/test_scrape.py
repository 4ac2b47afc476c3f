"""Where Prometheus finds the apps and sidecars of a stack, and where an app is told to serve its metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from apibase.local.errors import StackError
from apibase.local.instance import Instance, choose_ports, dapr_variables
from apibase.local.ports import PortPool
from apibase.local.process import ProcessSpec
from apibase.local.scrape import write_scrape_config
from apibase.local.service import Service
from apibase.local.sidecar import InstancePorts
from apibase.local.topology import AppSpec


def instance(app_id: str, ports: InstancePorts, replica: int = 0) -> Instance:
    async def ready() -> bool:
        return True

    sidecar = Service(ProcessSpec(app_id, ("daprd",), {}, Path(), Path("x.log")), ready, "", 1)
    return Instance(AppSpec(app_id, Path()), replica, app_id, ports, sidecar, None)


def jobs(file: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Return address, app and replica of every target, by job."""
    config: Any = yaml.safe_load(file.read_text())
    return {
        job["job_name"]: [
            (each["targets"][0], each["labels"]["app"], each["labels"]["replica"]) for each in job["static_configs"]
        ]
        for job in config["scrape_configs"]
    }


def test_every_replica_and_every_sidecar_is_a_target_and_a_caller_has_no_app(tmp_path: Path) -> None:
    instances = [
        instance("orders", InstancePorts(1, 2, 3, 4, 5, 6)),
        instance("orders", InstancePorts(11, 12, 13, 14, 15, 16), replica=1),
        instance("storefront", InstancePorts(0, 22, 23, 24, 25)),
    ]

    file = write_scrape_config(tmp_path, instances, tmp_path / "alerts.yml")

    assert jobs(file) == {
        "apibase": [("127.0.0.1:6", "orders", "0"), ("127.0.0.1:16", "orders", "1")],
        "daprd": [
            ("127.0.0.1:5", "orders", "0"),
            ("127.0.0.1:15", "orders", "1"),
            ("127.0.0.1:25", "storefront", "0"),
        ],
    }


@pytest.mark.parametrize("there", [True, False])
def test_a_projects_alerts_are_loaded_where_there_are_any(tmp_path: Path, there: bool) -> None:
    alerts = tmp_path / "alerts.yml"
    if there:
        alerts.touch()

    config = yaml.safe_load(write_scrape_config(tmp_path, [], alerts).read_text())

    assert config["rule_files"] == ([str(alerts)] if there else [])


def test_an_app_that_we_start_is_told_a_free_port_for_its_metrics_and_another_is_not() -> None:
    pool, finder = PortPool(), PortPool()
    wanted = finder.take()
    finder.close()
    ours = AppSpec("orders", Path(), command=("python",), env={"APIBASE_METRICS_PORT": str(wanted)})
    try:
        free = choose_ports(ours, pool, fixed=False)
        assert free.app_metrics not in {0, wanted, free.app}
        assert dapr_variables(ours, free)["APIBASE_METRICS_PORT"] == str(free.app_metrics)
        assert choose_ports(ours, pool, fixed=True).app_metrics == wanted
        with pytest.raises(StackError, match=r"orders' app \(metrics\)"):
            choose_ports(ours, pool, fixed=True)
        assert "APIBASE_METRICS_PORT" not in dapr_variables(
            ours, choose_ports(AppSpec("web", Path()), pool, fixed=True)
        )
    finally:
        pool.close()
