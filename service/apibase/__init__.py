"""API Base: a gRPC-first base for Python services on Dapr.

The public names are imported when they are first used, so that `apibase --help` does not load a gRPC server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apibase.app import App
    from apibase.clients import (
        ConfigurationKey,
        ConfigurationManager,
        ConfigurationStore,
        PubSubPublisher,
        SecretsManager,
        SecretValue,
        ServiceInvocationClient,
        Sidecar,
        StateItem,
        StateManager,
    )
    from apibase.contract import ContractError
    from apibase.contract.reasons import ErrorReasons
    from apibase.dead_letters.archive import DeadLetterArchive
    from apibase.dead_letters.filter import DeadLetterFilter
    from apibase.dead_letters.replay import DeadLetterReplay, NotReplayable
    from apibase.entry import run
    from apibase.errors import (
        ConfigurationInvalid,
        ConfigurationMissing,
        Conflict,
        Drop,
        FieldViolation,
        InvalidRequest,
        Retry,
        SecretNotFoundError,
        SecretStoreUnavailable,
        ServiceError,
        SidecarError,
        SidecarUnavailable,
    )
    from apibase.events import EventContext
    from apibase.observability import hide_in_logs, set_log_level
    from apibase.sdk_requests import (
        BindingRequest,
        ConstantFailurePolicy,
        DropFailurePolicy,
        FailurePolicy,
        InvokeMethodRequest,
        InvokeMethodResponse,
        Job,
        JobEvent,
        Rule,
        SubscriptionMessage,
        TopicEventResponse,
    )
    from apibase.settings import Settings
    from apibase.streaming import StreamingSubscription

_HOME = {
    "App": "app",
    "BindingRequest": "sdk_requests",
    "ConfigurationInvalid": "errors",
    "ConfigurationKey": "clients",
    "ConfigurationManager": "clients",
    "ConfigurationMissing": "errors",
    "ConfigurationStore": "clients",
    "Conflict": "errors",
    "ConstantFailurePolicy": "sdk_requests",
    "ContractError": "contract",
    "DeadLetterArchive": "dead_letters.archive",
    "DeadLetterFilter": "dead_letters.filter",
    "DeadLetterReplay": "dead_letters.replay",
    "Drop": "errors",
    "DropFailurePolicy": "sdk_requests",
    "ErrorReasons": "contract.reasons",
    "EventContext": "events",
    "FailurePolicy": "sdk_requests",
    "FieldViolation": "errors",
    "InvalidRequest": "errors",
    "InvokeMethodRequest": "sdk_requests",
    "InvokeMethodResponse": "sdk_requests",
    "Job": "sdk_requests",
    "JobEvent": "sdk_requests",
    "NotReplayable": "dead_letters.replay",
    "PubSubPublisher": "clients",
    "Retry": "errors",
    "Rule": "sdk_requests",
    "SecretNotFoundError": "errors",
    "SecretStoreUnavailable": "errors",
    "SecretValue": "clients",
    "SecretsManager": "clients",
    "ServiceError": "errors",
    "ServiceInvocationClient": "clients",
    "Settings": "settings",
    "Sidecar": "clients",
    "SidecarError": "errors",
    "SidecarUnavailable": "errors",
    "StateItem": "clients",
    "StateManager": "clients",
    "StreamingSubscription": "streaming",
    "SubscriptionMessage": "sdk_requests",
    "TopicEventResponse": "sdk_requests",
    "hide_in_logs": "observability",
    "run": "entry",
    "set_log_level": "observability",
}

__all__ = [
    "App",
    "BindingRequest",
    "ConfigurationInvalid",
    "ConfigurationKey",
    "ConfigurationManager",
    "ConfigurationMissing",
    "ConfigurationStore",
    "Conflict",
    "ConstantFailurePolicy",
    "ContractError",
    "DeadLetterArchive",
    "DeadLetterFilter",
    "DeadLetterReplay",
    "Drop",
    "DropFailurePolicy",
    "ErrorReasons",
    "EventContext",
    "FailurePolicy",
    "FieldViolation",
    "InvalidRequest",
    "InvokeMethodRequest",
    "InvokeMethodResponse",
    "Job",
    "JobEvent",
    "NotReplayable",
    "PubSubPublisher",
    "Retry",
    "Rule",
    "SecretNotFoundError",
    "SecretStoreUnavailable",
    "SecretValue",
    "SecretsManager",
    "ServiceError",
    "ServiceInvocationClient",
    "Settings",
    "Sidecar",
    "SidecarError",
    "SidecarUnavailable",
    "StateItem",
    "StateManager",
    "StreamingSubscription",
    "SubscriptionMessage",
    "TopicEventResponse",
    "hide_in_logs",
    "run",
    "set_log_level",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
