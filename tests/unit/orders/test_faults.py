"""Any order of calls and failures: in the end an order and its payment agree, and nobody was charged twice."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from orders import rules
from shop.orders.v1 import events_pb2, order_pb2
from shop.payments.v1 import payment_pb2
from tests.unit.memory_state import refused, unavailable
from tests.unit.shop import Shop, cut, quietly

ORDER_ID = rules.order_id("ann", "key-1")
ROW, PAYMENT = f"order/{ORDER_ID}", f"payment/{ORDER_ID}"
METHODS = ("Authorise", "Capture", "Void")

STEPS = {
    "place": lambda shop: shop.place(),
    "cancel": lambda shop: shop.cancel(ORDER_ID),
    "expire": lambda shop: shop.checkout.close(ORDER_ID, order_pb2.ORDER_STATUS_EXPIRED),
    "sweep": lambda shop: shop.sweep(),
    "deliver": lambda shop: shop.deliver(),
}
FAULTS = {
    **{f"cut before {method}": lambda shop, method=method: shop.wire.before(method, cut) for method in METHODS},
    **{f"cut after {method}": lambda shop, method=method: shop.wire.after(method, cut) for method in METHODS},
    **{
        f"{step} before {method}": lambda shop, step=step, method=method: shop.wire.before(
            method, lambda: quietly(STEPS[step](shop))
        )
        for step in STEPS
        for method in METHODS
    },
    **{
        f"{step} before the row is saved": lambda shop, step=step: shop.state.before_save(
            ROW, lambda: quietly(STEPS[step](shop))
        )
        for step in STEPS
    },
    "row refused": lambda shop: shop.state.before_save(ROW, refused),
    "row's answer lost": lambda shop: shop.state.after_save(ROW, unavailable),
    "payment refused": lambda shop: shop.ledger.before_save(PAYMENT, refused),
    "payment's answer lost": lambda shop: shop.ledger.after_save(PAYMENT, unavailable),
    "broker down": lambda shop: setattr(shop.broker, "down", True),
    "broker up": lambda shop: setattr(shop.broker, "down", False),
}
CONSISTENT = {
    ("SETTLED", "CAPTURED", 1),
    ("CANCELLED", "VOIDED", 0),
    ("EXPIRED", "VOIDED", 0),
}


@settings(max_examples=60)
@given(st.lists(st.sampled_from([*STEPS, *FAULTS]), max_size=14))
@example(["broker down", "place", "cut before Capture", "broker up", "sweep", "cancel before Capture", "sweep"])
@example(["cut after Capture", "place", "cut after Void", "cancel"])
async def test_in_the_end_an_order_and_its_payment_agree(script: list[str]) -> None:
    shop = Shop()

    for step in script:
        if step in STEPS:
            await quietly(STEPS[step](shop))
        else:
            FAULTS[step](shop)
    shop.broker.down = False
    for _ in range(20):  # what is armed goes off
        await quietly(shop.place())
        await quietly(shop.sweep())
        await quietly(shop.deliver())
    await shop.sweep()

    payment = await shop.payment(ORDER_ID)
    assert payment is not None
    status = payment_pb2.PaymentStatus.Name(payment.status).removeprefix("PAYMENT_STATUS_")
    assert (await shop.status(ORDER_ID), status, await shop.captures(ORDER_ID)) in CONSISTENT
    assert await shop.open_ids() == set()
    assert {event_id for event, event_id, _ in shop.broker.published if isinstance(event, events_pb2.OrderPlaced)} <= {
        f"{ORDER_ID}:placed"
    }
