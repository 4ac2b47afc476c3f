"""Mock components: a state store, a broker, bindings and secrets that the real daprd uses, and that fail on request.

    async with MockComponents() as mocks:       # then start daprd with mocks.environment
        mocks.faults.add(operation="state.get", status=grpc.StatusCode.UNAVAILABLE, times=2)

They are Dapr's pluggable components: daprd finds their Unix sockets in a folder and speaks gRPC to them. The component
types are `state.mock`, `pubsub.mock`, `bindings.mock` and `secretstores.mock`.
"""

from apibase.testing.components.bindings import BindingRecord, MockInputBinding, MockOutputBinding, Sent
from apibase.testing.components.component import Call, MockComponent
from apibase.testing.components.mocks import MockComponents
from apibase.testing.components.pubsub import BrokerMessage, MockPubSub
from apibase.testing.components.secret_store import MockSecretStore
from apibase.testing.components.state_store import MockStateStore

__all__ = [
    "BindingRecord",
    "BrokerMessage",
    "Call",
    "MockComponent",
    "MockComponents",
    "MockInputBinding",
    "MockOutputBinding",
    "MockPubSub",
    "MockSecretStore",
    "MockStateStore",
    "Sent",
]
