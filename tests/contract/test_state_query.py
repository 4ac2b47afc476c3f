"""Queries: filters, order and pages where a store has them, and that it has none elsewhere."""

from __future__ import annotations

import pytest
from google.protobuf import json_format
from pydantic import BaseModel

from apibase import NotSupported, StateManager
from apibase.clients.state import (
    AllOf,
    AnyOf,
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    NotEqual,
    OneOf,
    Sort,
    Upsert,
)
from shop.payments.v1 import payment_pb2
from tests.contract.sides import Side

QUERYING = ["postgres1"]


class Address(BaseModel):
    city: str


class Order(BaseModel):
    run: str
    name: str
    total: float
    open: bool
    address: Address


ORDERS = [("a", 9, True, "Ulm"), ("b", 10, False, "Bonn"), ("c", 1_000_000, True, "Ulm"), ("d", 2.5, True, "Köln"), ("e", 12_345_678, False, "Ulm")]  # fmt: skip


@pytest.fixture
def state(side: Side, store: str) -> StateManager:
    return StateManager(side.sidecar, store)


@pytest.fixture
def run(side: Side) -> str:
    """Return what tells this test's values from others."""
    return side.key("run")


async def names(state: StateManager, run: str, *filters) -> str:
    page = await state.query(Order, AllOf(Equal("run", run), *filters), sort=[Sort("name")])
    assert page.errors == {}
    return "".join(item.value.name for item in page.items)


async def fill(side: Side, state: StateManager, run: str) -> None:
    result = await state.save_bulk(
        Upsert(side.key(), Order(run=run, name=name, total=total, open=open_, address=Address(city=city)))
        for name, total, open_, city in ORDERS
    )
    result.raise_first()


@pytest.mark.req("R4.6")
@pytest.mark.parametrize("store", QUERYING)
@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([], "abcde"),
        ([Equal("name", "b")], "b"),
        ([Equal("total", 10)], "b"),
        ([Equal("total", 1_000_000)], "c"),
        ([Equal("total", 12345678.0)], "e"),
        ([Equal("total", 2.5)], "d"),
        ([Equal("open", value=True)], "acd"),
        ([Equal("open", value=False)], "be"),
        ([Equal("address.city", "Ulm")], "ace"),
        ([Equal("address.city", "Köln")], "d"),
        ([Equal("nothing", "x")], ""),
        ([NotEqual("address.city", "Ulm")], "bd"),
        ([NotEqual("nothing", "x")], ""),
        ([OneOf("name", ["a", "e", "x"])], "ae"),
        ([OneOf("total", [9, 1_000_000])], "ac"),
        ([Equal("open", value=True), Equal("address.city", "Ulm")], "ac"),
        ([AnyOf(Equal("name", "a"), Equal("total", 2.5))], "ad"),
        ([AnyOf(Equal("name", "a"))], "a"),
        ([AnyOf(AllOf(Equal("name", "a"), Equal("total", 1)), Equal("name", "b"))], "b"),
        ([Equal("name", "' OR true --")], ""),
    ],
    ids=str,
)
async def test_a_filter_finds_what_it_says(side: Side, state: StateManager, run: str, filters, found: str) -> None:
    await fill(side, state, run)

    assert await names(state, run, *filters) == found


@pytest.mark.req("R4.6")
@pytest.mark.parametrize("store", QUERYING)
async def test_an_item_that_is_found_can_be_written_back(side: Side, state: StateManager, run: str) -> None:
    await fill(side, state, run)
    page = await state.query(Order, AllOf(Equal("run", run), Equal("name", "a")))
    (item,) = page.items

    assert await state.get(item.key, Order) == item
    await state.save(item.key, item.value.model_copy(update={"name": "z"}), etag=item.etag)

    assert await names(state, run) == "bcdez"


@pytest.mark.req("R4.6")
@pytest.mark.parametrize("store", QUERYING)
@pytest.mark.parametrize(("limit", "sizes"), [(2, [2, 2, 1]), (5, [5, 0]), (4, [4, 1]), (100, [5])])
async def test_pages_have_every_item_once(side: Side, state: StateManager, run: str, limit: int, sizes) -> None:
    await fill(side, state, run)
    pages, token = [], ""
    while True:
        page = await state.query(Order, Equal("run", run), sort=[Sort("name")], limit=limit, token=token)
        pages.append([item.value.name for item in page.items])
        if page.token is None:
            break
        token = page.token

    assert [len(page) for page in pages] == sizes
    assert [name for page in pages for name in page] == ["a", "b", "c", "d", "e"]


@pytest.mark.req("R4.6")
@pytest.mark.parametrize("store", QUERYING)
async def test_several_fields_order_what_is_found(side: Side, state: StateManager, run: str) -> None:
    await fill(side, state, run)

    page = await state.query(Order, Equal("run", run), sort=[Sort("open"), Sort("name", descending=True)])

    assert "".join(item.value.name for item in page.items) == "ebdca"


@pytest.mark.req("R4.6")
@pytest.mark.parametrize("store", QUERYING)
async def test_messages_of_a_contract_are_found_by_their_json(side: Side, state: StateManager, run: str) -> None:
    captured = payment_pb2.Payment(payment_id=run, order_id="o-1", status=payment_pb2.PAYMENT_STATUS_CAPTURED)
    captured.amount.units = 12
    await state.save(side.key(), captured)
    await state.save(side.key(), payment_pb2.Payment(payment_id=run, order_id="o-2"))
    told = json_format.MessageToDict(captured)

    page = await state.query(
        payment_pb2.Payment,
        AllOf(
            Equal("paymentId", run),
            Equal("status", told["status"]),
            Equal("amount.units", told["amount"]["units"]),
        ),
    )

    assert [item.value for item in page.items] == [captured]


@pytest.mark.req("R4.6")
@pytest.mark.parametrize("store", QUERYING)
async def test_a_value_of_another_kind_hides_no_other(side: Side, state: StateManager, run: str) -> None:
    await fill(side, state, run)
    wrong = side.key()
    await state.save(wrong, {"run": run, "name": "b"})

    page = await state.query(Order, AllOf(Equal("run", run), Equal("name", "b")))

    assert [item.value.total for item in page.items] == [10]
    assert [(key, error.reason) for key, error in page.errors.items()] == [(wrong, "STATE_UNREADABLE")]


@pytest.mark.req("R4.6")
@pytest.mark.parametrize("store", QUERYING)
async def test_what_a_transaction_saved_is_not_found_by_its_fields(side: Side, state: StateManager, run: str) -> None:
    await state.transact([Upsert(side.key(), {"run": run}), Upsert(side.key(), {"run": run})])
    await state.save(side.key(), {"run": run})

    page = await state.query(dict, Equal("run", run))

    assert len(page.items) == 1


@pytest.mark.req("R4.6")
@pytest.mark.parametrize("store", QUERYING)
@pytest.mark.parametrize("by_order", [Greater, GreaterOrEqual, Less, LessOrEqual])
async def test_what_would_compare_numbers_as_text_is_not_supported(state: StateManager, by_order) -> None:
    with pytest.raises(NotSupported, match="by which 10 is less than 9") as caught:
        await state.query(Order, by_order("total", 9))

    assert caught.value.feature == "queries for greater or less"


@pytest.mark.req("R4.6")
@pytest.mark.parametrize("store", QUERYING)
@pytest.mark.parametrize("path", ["", "a b", "a'b", "a.", ".a", "a..b", "a'->>'b", "1a", "a-b", "ä"])
async def test_a_path_that_would_be_read_as_something_else_is_refused(state: StateManager, path: str) -> None:
    with pytest.raises(ValueError, match="is no path of a field"):
        await state.query(Order, Equal(path, "x"))
    with pytest.raises(ValueError, match="is no path of a field"):
        await state.query(Order, sort=[Sort(path)])


@pytest.mark.req("R4.6")
@pytest.mark.parametrize("store", ["postgres", "redis", "sqlite"])
async def test_a_store_without_queries_says_so(state: StateManager, store: str) -> None:
    with pytest.raises(NotSupported, match=f"'{store}' does not support queries") as caught:
        await state.query(Order, Equal("name", "a"))

    assert (caught.value.component, caught.value.feature) == (store, "queries")
