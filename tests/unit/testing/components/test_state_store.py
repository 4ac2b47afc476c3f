"""The mock state store: versions, transactions, time to live, and failures of its own."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from apibase.testing.components import MockComponents
from dapr_components.v1 import common_pb2, state_pb2
from tests.unit.testing.components.wire import connected

pytestmark = pytest.mark.req("R14.4")

FIRST_WRITE = state_pb2.StateOptions(concurrency=state_pb2.StateOptions.CONCURRENCY_FIRST_WRITE)


def put(key: str, value: bytes, etag: str | None = None, **fields: Any) -> state_pb2.SetRequest:
    return state_pb2.SetRequest(key=key, value=value, etag=state_pb2.Etag(value=etag) if etag else None, **fields)


async def mismatch(call: Any) -> None:
    """The call is refused as daprd tells a stale version from other failures."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    status = rpc_status.from_call(caught.value)
    assert status is not None
    detail = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(detail)
    assert [violation.field for violation in detail.field_violations] == ["etag"]


async def test_a_key_that_is_not_there_has_neither_data_nor_version(store: Any) -> None:
    found = await store.Get(state_pb2.GetRequest(key="k"))
    assert (found.data, found.HasField("etag")) == (b"", False)


async def test_a_write_names_the_version_that_it_replaces_or_is_refused(store: Any) -> None:
    await store.Set(put("k", b"1", content_type="text/plain"))
    first = await store.Get(state_pb2.GetRequest(key="k"))
    assert first.content_type == "text/plain"
    await store.Set(put("k", b"2", first.etag.value))
    await mismatch(store.Set(put("k", b"3", first.etag.value)))
    await mismatch(store.Set(put("new", b"3", "1")))
    await mismatch(store.Set(put("k", b"3", options=FIRST_WRITE)))
    await mismatch(store.Delete(state_pb2.DeleteRequest(key="k", etag=first.etag)))
    await mismatch(store.BulkSet(state_pb2.BulkSetRequest(items=[put("a", b"1"), put("k", b"3", first.etag.value)])))
    await mismatch(
        store.BulkDelete(state_pb2.BulkDeleteRequest(items=[state_pb2.DeleteRequest(key="k", etag=first.etag)]))
    )
    assert (await store.Get(state_pb2.GetRequest(key="k"))).data == b"2"
    assert not (await store.Get(state_pb2.GetRequest(key="a"))).data


async def test_the_first_write_of_a_key_and_the_last_writers_pass(store: Any) -> None:
    await store.Set(put("k", b"1", options=FIRST_WRITE))
    await store.Set(put("k", b"2"))
    await store.Delete(state_pb2.DeleteRequest(key="k"))
    await store.Delete(state_pb2.DeleteRequest(key="k"))
    await store.Set(put("k", b"3", options=FIRST_WRITE))


async def test_a_transaction_is_made_whole_or_not_at_all(mocks: MockComponents) -> None:
    operation = state_pb2.TransactionalStateOperation
    async with connected(mocks.folder / "mock.state", "TransactionalStateStore") as store:
        await store.Transact(
            state_pb2.TransactionalStateRequest(
                operations=[operation(set=put("a", b"1")), operation(set=put("b", b"2"))]
            )
        )
        with pytest.raises(grpc.aio.AioRpcError, match="possible etag mismatch"):
            await store.Transact(
                state_pb2.TransactionalStateRequest(
                    operations=[
                        operation(delete=state_pb2.DeleteRequest(key="a")),
                        operation(set=put("b", b"3", "stale")),
                    ]
                )
            )
    assert mocks.state.values == {"a": b"1", "b": b"2"}
    assert mocks.count("state.transact", "b") == 2


async def test_what_the_store_can_do_is_what_a_test_says(mocks: MockComponents, store: Any) -> None:
    assert list((await store.Features(common_pb2.FeaturesRequest())).features) == ["ETAG", "TRANSACTIONAL", "TTL"]
    mocks.state.features = ("ETAG",)
    mocks.state.max_operations = 10
    assert list((await store.Features(common_pb2.FeaturesRequest())).features) == ["ETAG"]
    async with connected(mocks.folder / "mock.state", "TransactionalStoreMultiMaxSize") as sized:
        assert (await sized.MultiMaxSize(state_pb2.MultiMaxSizeRequest())).max_size == 10


async def test_an_item_is_gone_when_its_time_is_over(mocks: MockComponents, store: Any) -> None:
    mocks.state.now = lambda: 1_000.0
    await store.Set(put("short", b"1", metadata={"ttlInSeconds": "5"}))
    await store.Set(put("ever", b"1", metadata={"ttlInSeconds": "-1"}))
    found = await store.Get(state_pb2.GetRequest(key="short"))
    assert found.metadata["ttlExpireTime"] == "1970-01-01T00:16:45Z"
    assert not (await store.Get(state_pb2.GetRequest(key="ever"))).metadata
    mocks.state.now = lambda: 1_005.0
    assert list(mocks.state.values) == ["ever"]
    with pytest.raises(grpc.aio.AioRpcError, match="no whole number"):
        await store.Set(put("odd", b"1", metadata={"ttlInSeconds": "soon"}))


async def test_of_many_keys_each_has_its_own_failure(mocks: MockComponents, store: Any) -> None:
    await store.BulkSet(state_pb2.BulkSetRequest(items=[put("app||a", b"1"), put("app||b", b"2")]))
    mocks.faults.add(operation="state.get", key="b", status=grpc.StatusCode.DATA_LOSS, message="a bad sector")
    request = state_pb2.BulkGetRequest(items=[state_pb2.GetRequest(key=f"app||{key}") for key in "abc"])
    found = {item.key: (item.data, item.error) for item in (await store.BulkGet(request)).items}
    assert found == {"app||a": (b"1", ""), "app||b": (b"", "DATA_LOSS: a bad sector"), "app||c": (b"", "")}


async def test_a_key_is_found_with_the_app_before_it_or_without(mocks: MockComponents, store: Any) -> None:
    await store.Set(put("orders||mug", b"1"))
    await store.Set(put("payments||cup", b"2"))
    await store.Set(put("orders||cup", b"3"))
    assert mocks.state.value("mug") == mocks.state.value("orders||mug") == b"1"
    assert mocks.state.value("jug") is None
    with pytest.raises(KeyError, match="give the whole key"):
        mocks.state.value("cup")
    mocks.state.put("cup", b"4")
    assert mocks.state.value("cup") == b"4"
    mocks.state.clear()
    assert mocks.state.values == {}
