"""What a contract declares, how it changes, and what is generated from it."""

from apibase.contract.declared import (
    LISTENER_OPTIONS,
    BindingListener,
    ContractError,
    JobListener,
    Listener,
    TopicListener,
    allowed_callers,
    event_options,
    is_implemented,
    listeners,
    request_class,
    response_class,
    servicer_contract,
    where,
)

__all__ = [
    "LISTENER_OPTIONS",
    "BindingListener",
    "ContractError",
    "JobListener",
    "Listener",
    "TopicListener",
    "allowed_callers",
    "event_options",
    "is_implemented",
    "listeners",
    "request_class",
    "response_class",
    "servicer_contract",
    "where",
]
