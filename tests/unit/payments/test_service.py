"""The ledger: every method is idempotent, and one row decides every race."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.type.money_pb2 import Money

from apibase import ServiceError, SidecarUnavailable
from payments.service import PaymentService
from shop.payments.v1 import events_pb2, payment_pb2, service_pb2
from tests.unit.memory_state import MemoryState, unavailable
from tests.unit.shop import CONTEXT, Broker, Provider

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PAYMENT_ID = "bb550da4-adb8-588b-8282-f8599fab2c67"
ORDER_ID = "0b6f2a0e-6f0c-5b4e-9a55-0d1f2b3c4d5e"
ROW = f"payment/{PAYMENT_ID}"
FIVE = Money(currency_code="EUR", units=5)
AUTHORISED = payment_pb2.PAYMENT_STATUS_AUTHORISED
CAPTURED = payment_pb2.PAYMENT_STATUS_CAPTURED
DECLINED = payment_pb2.PAYMENT_STATUS_DECLINED
VOIDED = payment_pb2.PAYMENT_STATUS_VOIDED


class Ledger:
    """The service over a store in memory, as its callers see it."""

    def __init__(self) -> None:
        self.state, self.broker = MemoryState(), Broker()
        self._service = PaymentService(self.state, self.broker, Provider())  # type: ignore[arg-type]

    async def authorise(self, **changes: Any) -> payment_pb2.Payment:
        request = service_pb2.AuthoriseRequest(
            **{
                "payment_id": PAYMENT_ID,
                "order_id": ORDER_ID,
                "amount": FIVE,
                "payment_token": "tok_hunter2",
                **changes,
            }
        )
        return (await self._service.Authorise(request, CONTEXT)).payment

    async def capture(self) -> payment_pb2.Payment:
        return (await self._service.Capture(service_pb2.CaptureRequest(payment_id=PAYMENT_ID), CONTEXT)).payment

    async def void(self) -> payment_pb2.Payment:
        return (await self._service.Void(service_pb2.VoidRequest(payment_id=PAYMENT_ID), CONTEXT)).payment

    async def get(self) -> payment_pb2.Payment:
        return (await self._service.GetPayment(service_pb2.GetPaymentRequest(payment_id=PAYMENT_ID), CONTEXT)).payment

    async def history(self) -> list[int]:
        return [entry.status for entry in (await self.get()).entries]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


async def refused(call: Awaitable[Any], code: grpc.StatusCode, reason: str) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await call
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert caught.value.metadata["payment_id"] == PAYMENT_ID
    return caught.value


async def wrong_status(call: Awaitable[Any], status: str) -> None:
    error = await refused(call, grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATUS")
    assert error.metadata["status"] == f"PAYMENT_STATUS_{status}"


async def test_a_payment_is_authorised_then_captured_and_the_world_is_told(ledger: Ledger) -> None:
    authorised = await ledger.authorise()
    assert (authorised.status, authorised.amount, authorised.order_id) == (AUTHORISED, FIVE, ORDER_ID)
    assert ledger.broker.published == []

    captured = await ledger.capture()

    assert captured.status == CAPTURED
    assert await ledger.history() == [AUTHORISED, CAPTURED]
    assert ledger.broker.published == [
        (
            events_pb2.PaymentSettled(payment_id=PAYMENT_ID, order_id=ORDER_ID, amount=FIVE),
            f"{PAYMENT_ID}:settled",
            PAYMENT_ID,
        )
    ]


@pytest.mark.req("R13.4")
async def test_the_payment_token_is_not_kept(ledger: Ledger) -> None:
    payment = await ledger.authorise()

    assert "hunter2" not in str(payment)
    assert "hunter2" not in str(ledger.state.rows)


async def test_authorising_again_is_the_same_payment(ledger: Ledger) -> None:
    first = await ledger.authorise()

    assert await ledger.authorise() == first
    assert ledger.state.saves == [ROW]


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": Money(currency_code="EUR", units=6)},
        {"amount": Money(currency_code="USD", units=5)},
        {"order_id": PAYMENT_ID},
    ],
    ids=["another amount", "another currency", "another order"],
)
async def test_a_payment_id_is_of_one_amount_and_order(ledger: Ledger, changes: dict[str, Any]) -> None:
    await ledger.authorise()

    await refused(ledger.authorise(**changes), grpc.StatusCode.ALREADY_EXISTS, "PAYMENT_ID_REUSED")

    assert (await ledger.get()).amount == FIVE


async def test_a_declined_card_is_an_answer_and_stays_declined(ledger: Ledger) -> None:
    declined = await ledger.authorise(payment_token="tok_declined_1")
    assert (declined.status, declined.decline_reason) == (DECLINED, "card_declined")

    assert (await ledger.authorise(payment_token="tok_visa")).status == DECLINED
    await wrong_status(ledger.capture(), "DECLINED")
    assert (await ledger.void()).status == DECLINED
    assert await ledger.history() == [DECLINED]
    assert ledger.broker.published == []


async def test_capturing_again_charges_nothing_and_tells_the_same_again(ledger: Ledger) -> None:
    await ledger.authorise()
    await ledger.capture()
    await ledger.capture()

    assert await ledger.history() == [AUTHORISED, CAPTURED]
    assert len({event_id for _, event_id, _ in ledger.broker.published}) == 1
    assert len(ledger.broker.published) == 2


async def test_a_capture_that_could_not_be_told_is_told_by_the_next(ledger: Ledger) -> None:
    await ledger.authorise()
    ledger.broker.down = True
    with pytest.raises(SidecarUnavailable):
        await ledger.capture()
    assert (await ledger.get()).status == CAPTURED

    ledger.broker.down = False
    await ledger.capture()

    assert len(ledger.broker.published) == 1
    assert await ledger.history() == [AUTHORISED, CAPTURED]


async def test_a_voided_payment_stays_voided(ledger: Ledger) -> None:
    await ledger.authorise()
    assert (await ledger.void()).status == VOIDED

    assert (await ledger.void()).status == VOIDED
    assert (await ledger.authorise()).status == VOIDED
    await wrong_status(ledger.capture(), "VOIDED")
    assert await ledger.history() == [AUTHORISED, VOIDED]


async def test_a_captured_payment_stays_captured(ledger: Ledger) -> None:
    await ledger.authorise()
    await ledger.capture()

    await wrong_status(ledger.void(), "CAPTURED")
    assert (await ledger.authorise()).status == CAPTURED


async def test_a_payment_that_is_voided_before_it_is_authorised_never_is(ledger: Ledger) -> None:
    assert (await ledger.void()).status == VOIDED

    assert (await ledger.authorise()).status == VOIDED
    await wrong_status(ledger.capture(), "VOIDED")
    assert await ledger.history() == [VOIDED]


async def test_a_payment_that_nobody_made_is_not_found(ledger: Ledger) -> None:
    await refused(ledger.get(), grpc.StatusCode.NOT_FOUND, "PAYMENT_NOT_FOUND")
    await refused(ledger.capture(), grpc.StatusCode.NOT_FOUND, "PAYMENT_NOT_FOUND")
    assert ledger.state.rows == {}


async def test_a_void_that_comes_between_a_captures_look_and_save_wins(ledger: Ledger) -> None:
    await ledger.authorise()
    ledger.state.before_save(ROW, ledger.void)

    await wrong_status(ledger.capture(), "VOIDED")

    assert await ledger.history() == [AUTHORISED, VOIDED]
    assert ledger.broker.published == []


async def test_a_capture_that_comes_between_a_voids_look_and_save_wins(ledger: Ledger) -> None:
    await ledger.authorise()
    ledger.state.before_save(ROW, ledger.capture)

    await wrong_status(ledger.void(), "CAPTURED")

    assert await ledger.history() == [AUTHORISED, CAPTURED]


async def test_a_void_that_comes_before_an_authorisations_save_wins(ledger: Ledger) -> None:
    ledger.state.before_save(ROW, ledger.void)

    assert (await ledger.authorise()).status == VOIDED


async def test_an_authorisation_that_comes_before_a_first_voids_save_is_voided(ledger: Ledger) -> None:
    ledger.state.before_save(ROW, ledger.authorise)

    assert (await ledger.void()).status == VOIDED

    assert await ledger.history() == [AUTHORISED, VOIDED]


async def test_an_authorisation_of_another_amount_that_was_first_is_kept(ledger: Ledger) -> None:
    ledger.state.before_save(ROW, lambda: ledger.authorise(amount=Money(currency_code="EUR", units=1)))

    await refused(ledger.authorise(), grpc.StatusCode.ALREADY_EXISTS, "PAYMENT_ID_REUSED")


async def test_twenty_callers_at_once_make_one_payment_and_one_charge(ledger: Ledger) -> None:
    payments = await asyncio.gather(*(ledger.authorise() for _ in range(20)))
    assert {payment.status for payment in payments} == {AUTHORISED}
    await asyncio.gather(*(ledger.capture() for _ in range(20)))

    assert await ledger.history() == [AUTHORISED, CAPTURED]


@pytest.mark.parametrize("first", ["capture", "void"])
async def test_capturing_and_voiding_at_once_end_in_one_of_the_two(ledger: Ledger, first: str) -> None:
    await ledger.authorise()
    calls = [ledger.capture(), ledger.void()]
    if first == "void":
        calls.reverse()

    results = await asyncio.gather(*calls, return_exceptions=True)

    assert sum(isinstance(result, ServiceError) for result in results) == 1
    history = await ledger.history()
    assert history in ([AUTHORISED, CAPTURED], [AUTHORISED, VOIDED])
    assert len(ledger.broker.published) == (history[-1] == CAPTURED)


@pytest.mark.parametrize("call", ["authorise", "capture", "void"])
async def test_a_lost_answer_of_the_store_can_be_asked_for_again(ledger: Ledger, call: str) -> None:
    if call != "authorise":
        await ledger.authorise()
    ask: Callable[[], Awaitable[payment_pb2.Payment]] = getattr(ledger, call)
    ledger.state.after_save(ROW, unavailable)

    with pytest.raises(SidecarUnavailable):
        await ask()
    payment = await ask()

    assert payment.status == {"authorise": AUTHORISED, "capture": CAPTURED, "void": VOIDED}[call]
    history = await ledger.history()
    assert len(history) == len(set(history))
