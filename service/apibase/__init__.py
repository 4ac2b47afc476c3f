"""API Base: a gRPC-first base for Python services on Dapr.

The public names are imported when they are first used, so that `apibase --help` does not load a gRPC server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apibase.app import App
    from apibase.clients import PubSubPublisher, ServiceInvocationClient, Sidecar, StateItem, StateManager
    from apibase.contract import ContractError
    from apibase.entry import run
    from apibase.errors import (
        Conflict,
        Drop,
        FieldViolation,
        InvalidRequest,
        Retry,
        ServiceError,
        SidecarError,
        SidecarUnavailable,
    )
    from apibase.events import EventContext
    from apibase.settings import Settings

_HOME = {
    "App": "app",
    "Conflict": "errors",
    "ContractError": "contract",
    "Drop": "errors",
    "EventContext": "events",
    "FieldViolation": "errors",
    "InvalidRequest": "errors",
    "PubSubPublisher": "clients",
    "Retry": "errors",
    "ServiceError": "errors",
    "ServiceInvocationClient": "clients",
    "Settings": "settings",
    "Sidecar": "clients",
    "SidecarError": "errors",
    "SidecarUnavailable": "errors",
    "StateItem": "clients",
    "StateManager": "clients",
    "run": "entry",
}

__all__ = [
    "App",
    "Conflict",
    "ContractError",
    "Drop",
    "EventContext",
    "FieldViolation",
    "InvalidRequest",
    "PubSubPublisher",
    "Retry",
    "ServiceError",
    "ServiceInvocationClient",
    "Settings",
    "Sidecar",
    "SidecarError",
    "SidecarUnavailable",
    "StateItem",
    "StateManager",
    "run",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
