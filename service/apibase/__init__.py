"""API Base: a gRPC-first base for Python services on Dapr."""

from apibase.app import App
from apibase.clients import PubSubPublisher, ServiceInvocationClient, Sidecar, StateItem, StateManager
from apibase.contract import ContractError
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
]
