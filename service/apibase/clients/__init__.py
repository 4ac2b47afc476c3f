"""Asyncio clients of Dapr's building blocks, over the one connection to the sidecar."""

from apibase.clients._transport import Sidecar
from apibase.clients.bindings import BindingResponse, BindingsClient
from apibase.clients.configuration import ConfigurationManager
from apibase.clients.configuration_key import ConfigurationKey, Origin
from apibase.clients.configuration_store import ConfigurationStore
from apibase.clients.http import HttpApp, HttpResponse, StreamedResponse
from apibase.clients.invocation import InvocationResponse, ServiceInvocationClient
from apibase.clients.jobs import JobsClient, ScheduledJob
from apibase.clients.locks import Lock, LockClient
from apibase.clients.metadata import MetadataClient, SidecarMetadata
from apibase.clients.publication import Publication
from apibase.clients.pubsub import BulkPublished, FailedPublication, PubSubPublisher
from apibase.clients.secret_value import SecretValue
from apibase.clients.secrets import Secret, SecretsManager
from apibase.clients.state import StateItem, StateManager

__all__ = [
    "BindingResponse",
    "BindingsClient",
    "BulkPublished",
    "ConfigurationKey",
    "ConfigurationManager",
    "ConfigurationStore",
    "FailedPublication",
    "HttpApp",
    "HttpResponse",
    "InvocationResponse",
    "JobsClient",
    "Lock",
    "LockClient",
    "MetadataClient",
    "Origin",
    "PubSubPublisher",
    "Publication",
    "ScheduledJob",
    "Secret",
    "SecretValue",
    "SecretsManager",
    "ServiceInvocationClient",
    "Sidecar",
    "SidecarMetadata",
    "StateItem",
    "StateManager",
    "StreamedResponse",
]
