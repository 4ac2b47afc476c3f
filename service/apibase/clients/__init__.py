"""Asyncio clients of Dapr's building blocks, over the one connection to the sidecar."""

from apibase.clients._transport import Sidecar
from apibase.clients.invocation import ServiceInvocationClient
from apibase.clients.pubsub import PubSubPublisher
from apibase.clients.state import StateItem, StateManager

__all__ = ["PubSubPublisher", "ServiceInvocationClient", "Sidecar", "StateItem", "StateManager"]
