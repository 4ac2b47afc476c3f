"""What the tests of a service need: doubles of what is around it, and faults on request.

The public names are imported when they are first used: the pytest plugin is loaded with every run of pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apibase.testing.app_client import AppClient
    from apibase.testing.faults import Fault, Faults
    from apibase.testing.stand_in.clock import Clock
    from apibase.testing.stand_in.component import Component
    from apibase.testing.stand_in.records import Delivery, Record
    from apibase.testing.stand_in.stand_in import StandIn

_HOME = {
    "AppClient": "app_client",
    "Clock": "stand_in.clock",
    "Component": "stand_in.component",
    "Delivery": "stand_in.records",
    "Fault": "faults",
    "Faults": "faults",
    "Record": "stand_in.records",
    "StandIn": "stand_in.stand_in",
}

__all__ = ["AppClient", "Clock", "Component", "Delivery", "Fault", "Faults", "Record", "StandIn"]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
