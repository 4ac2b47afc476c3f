"""gRPC services that an app brings ready-made, beside the app channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2_grpc
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health, health_pb2_grpc
from pydantic import SecretStr

from apibase import App, ContractError
from tests.unit.decorated import started
from tests.unit.status import refused

if TYPE_CHECKING:
    from apibase import Settings
    from tests.unit.conftest import Desk

pytestmark = pytest.mark.usefixtures("dapr", "log")


@pytest.fixture
def service(desk: Desk) -> Any:
    class Service(desk.grpc.DeskServicer):
        def Ask(self, request: Any, context: Any) -> Any:
            return desk.pb2.Answer(text=request.text)

    return Service()


async def test_a_service_is_served_and_known_to_health(desk: Desk, settings: Settings, service: Any) -> None:
    app = App(settings)
    app.add_external_service(desk.grpc.add_DeskServicer_to_server, service)
    async with started(app) as daprd:
        answer = await desk.grpc.DeskStub(daprd.channel).Ask(desk.pb2.Question(text="why"))
        assert answer.text == "why"
        assert await daprd.status("desk.v1.Desk") == 1


async def test_a_service_is_behind_the_apps_token(desk: Desk, settings: Settings, service: Any) -> None:
    app = App(settings.model_copy(update={"app_api_token": SecretStr("t0ken")}))
    app.add_external_service(desk.grpc.add_DeskServicer_to_server, service)
    async with started(app) as daprd:
        stub = desk.grpc.DeskStub(daprd.channel)
        question = desk.pb2.Question(text="why")
        assert (await stub.Ask(question, metadata=(("dapr-api-token", "t0ken"),))).text == "why"
        for metadata in ((), (("dapr-api-token", "other"),)):
            with refused() as told:
                await stub.Ask(question, metadata=metadata, timeout=5)
            assert told.code is grpc.StatusCode.UNAUTHENTICATED


async def test_of_two_health_services_the_apps_own_is_served(settings: Settings) -> None:
    app = App(settings)
    app.add_external_service(health_pb2_grpc.add_HealthServicer_to_server, health.HealthServicer())
    async with started(app) as daprd:
        assert await daprd.status() == 1
        app.health.set_draining()
        assert await daprd.status() == 2


def test_listeners_and_what_is_served_already_are_refused(desk: Desk, settings: Settings, service: Any) -> None:
    app = App(settings)
    with pytest.raises(ContractError, match=r"desk.v1.DeskEvents listens to Dapr and is never served"):
        app.add_external_service(desk.grpc.add_DeskEventsServicer_to_server, desk.grpc.DeskEventsServicer())
    callback = appcallback_pb2_grpc.AppCallbackServicer()
    with pytest.raises(ContractError, match=r"AppCallback is served by the app itself"):
        app.add_external_service(appcallback_pb2_grpc.add_AppCallbackServicer_to_server, callback)
    app.add_servicer(service)
    with pytest.raises(ContractError, match=r"desk.v1.Desk is served twice"):
        app.add_external_service(desk.grpc.add_DeskServicer_to_server, service)
    other = App(settings)
    other.add_external_service(desk.grpc.add_DeskServicer_to_server, service)
    with pytest.raises(ContractError, match=r"desk.v1.Desk is served twice"):
        other.add_servicer(service)


async def test_a_service_of_no_contract_is_served_too(settings: Settings) -> None:
    def ping(request: Empty, context: Any) -> Empty:
        return request

    def add(servicer: object, server: Any) -> None:
        codec = {"request_deserializer": Empty.FromString, "response_serializer": Empty.SerializeToString}
        handlers = {"Ping": grpc.unary_unary_rpc_method_handler(ping, **codec)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("no.Contract", handlers),))

    app = App(settings)
    app.add_external_service(add, None)
    async with started(app) as daprd:
        assert await daprd.channel.unary_unary("/no.Contract/Ping")(b"") == b""
        with refused() as told:
            await daprd.channel.unary_unary("/no.Contract/Pong")(b"")
    assert told.code is grpc.StatusCode.UNIMPLEMENTED


def test_what_the_app_serves_itself_is_no_servicer_of_a_services(settings: Settings) -> None:
    class Callbacks(appcallback_pb2_grpc.AppCallbackServicer): ...

    class Probes(health_pb2_grpc.HealthServicer): ...

    for servicer in (Callbacks(), Probes()):
        with pytest.raises(ContractError, match=r"is served by the app itself; leave it out"):
            App(settings).add_servicer(servicer)
