"""The mock bindings and the mock secret store."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from apibase.testing.components import MockComponents
from dapr_components.v1 import bindings_pb2, secretstore_pb2
from tests.unit.fake_dapr import eventually
from tests.unit.testing.components.wire import connected

pytestmark = pytest.mark.req("R14.4")


async def answer(call: Any, data: bytes = b"", error: str = "") -> bindings_pb2.ReadResponse:
    record = await asyncio.wait_for(call.read(), 5)
    failure = bindings_pb2.AckResponseError(message=error) if error else None
    await call.write(bindings_pb2.ReadRequest(message_id=record.message_id, response_data=data, response_error=failure))
    return record


async def test_a_record_waits_for_a_reader_and_has_its_answer(mocks: MockComponents) -> None:
    record = mocks.input.push(b"1", metadata={"row": "2"}, content_type="text/plain")
    async with connected(mocks.folder / "mock.input", "InputBinding") as stub:
        call = stub.Read()
        got = await answer(call, b"done")
        assert (got.data, dict(got.metadata), got.content_type) == (b"1", {"row": "2"}, "text/plain")
        await record.answered()
        assert (record.response, record.error, record.attempts) == (b"done", "", 1)
        failed = mocks.input.push(b"2")
        await answer(call, error="not now")
        await failed.answered()
        assert failed.error == "not now"
        call.cancel()


async def test_a_record_that_was_not_answered_goes_to_the_next_reader(mocks: MockComponents) -> None:
    record = mocks.input.push(b"1")
    async with connected(mocks.folder / "mock.input", "InputBinding") as stub:
        call = stub.Read()
        assert (await call.read()).data == b"1"
        with pytest.raises(TimeoutError, match="delivered 1 times and not answered"):
            await record.answered(0.01)
        call.cancel()
        await eventually(lambda: mocks.input.reading == 0)
        again = stub.Read()
        await answer(again)
        await record.answered()
        assert record.attempts == 2
        again.cancel()


async def test_what_a_reader_that_ends_leaves_goes_to_one_that_waits(mocks: MockComponents) -> None:
    async with connected(mocks.folder / "mock.input", "InputBinding") as stub:
        first = stub.Read()
        await eventually(lambda: mocks.input.reading == 1)
        record = mocks.input.push(b"1")
        assert (await first.read()).data == b"1"
        second = stub.Read()
        await eventually(lambda: mocks.input.reading == 2)
        first.cancel()
        await answer(second)
        await record.answered()
        second.cancel()


async def test_a_reader_whose_delivery_fails_ends_and_the_record_waits(mocks: MockComponents) -> None:
    mocks.faults.add(operation="input.deliver", status=grpc.StatusCode.UNAVAILABLE, message="rebalancing", times=1)
    record = mocks.input.push(b"1")
    async with connected(mocks.folder / "mock.input", "InputBinding") as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="rebalancing"):
            await stub.Read().read()
        call = stub.Read()
        await answer(call)
        await record.answered()
        call.cancel()
    assert mocks.count("input.read") == 2


async def test_what_goes_out_is_told_and_answered_by_operation(mocks: MockComponents) -> None:
    mocks.output.answers = {"get": b"row", "create": lambda sent: sent.data * 2}
    async with connected(mocks.folder / "mock.output", "OutputBinding") as stub:
        listed = await stub.ListOperations(bindings_pb2.ListOperationsRequest())
        assert list(listed.operations) == ["create", "get", "list", "delete"]
        for operation, data in (("get", b"row"), ("create", b"xx"), ("list", b"")):
            response = await stub.Invoke(bindings_pb2.InvokeRequest(operation=operation, data=b"x"))
            assert response.data == data
        mocks.faults.add(operation="output.invoke", key="delete", status=grpc.StatusCode.ABORTED)
        for operation, code in (("delete", grpc.StatusCode.ABORTED), ("shred", grpc.StatusCode.UNIMPLEMENTED)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Invoke(bindings_pb2.InvokeRequest(operation=operation))
            assert caught.value.code() is code
    assert [sent.operation for sent in mocks.output.sent] == ["get", "create", "list"]


async def test_a_secret_has_a_value_or_several_or_is_not_there(mocks: MockComponents) -> None:
    mocks.secrets.secrets = {"key": "k-1", "database": {"user": "ann", "password": "p"}}
    async with connected(mocks.folder / "mock.secrets", "SecretStore") as stub:
        for name, data in (("key", {"key": "k-1"}), ("database", {"user": "ann", "password": "p"})):
            assert dict((await stub.Get(secretstore_pb2.GetSecretRequest(key=name))).data) == data
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Get(secretstore_pb2.GetSecretRequest(key="none"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        every = (await stub.BulkGet(secretstore_pb2.BulkGetSecretRequest())).data
        assert {name: dict(each.secrets) for name, each in every.items()} == {
            "key": {"key": "k-1"},
            "database": {"user": "ann", "password": "p"},
        }
