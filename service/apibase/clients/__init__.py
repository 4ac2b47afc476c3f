"""Asyncio clients of Dapr's building blocks, over the one connection to the sidecar."""

from apibase.clients._transport import Sidecar
from apibase.clients.configuration import ConfigurationManager
from apibase.clients.configuration_key import ConfigurationKey, Origin
from apibase.clients.configuration_store import ConfigurationStore
from apibase.clients.invocation import ServiceInvocationClient
from apibase.clients.pubsub import PubSubPublisher
from apibase.clients.secret_value import SecretValue
from apibase.clients.secrets import Secret, SecretsManager
from apibase.clients.state import StateItem, StateManager

__all__ = [
    "ConfigurationKey",
    "ConfigurationManager",
    "ConfigurationStore",
    "Origin",
    "PubSubPublisher",
    "Secret",
    "SecretValue",
    "SecretsManager",
    "ServiceInvocationClient",
    "Sidecar",
    "StateItem",
    "StateManager",
]
