"""Where the orders service is put together: the one place that knows all of its parts."""

from __future__ import annotations

from importlib.resources import files

from apibase import App, Settings
from orders.checkout import Checkout
from orders.events import OrderEvents
from orders.rules import Catalogue
from orders.service import OrderService
from orders.settings import OrderSettings
from orders.store import OrderStore
from shop.payments.v1.service_pb2_grpc import PaymentServiceStub


def build(settings: Settings | None = None, order_settings: OrderSettings | None = None) -> App:
    """Return the app, ready to run."""
    app = App(settings)
    options = order_settings or OrderSettings()
    store = OrderStore(app.state(options.store))
    payments = app.invocation.client(PaymentServiceStub, app_id=options.payments_app_id)
    checkout = Checkout(store, payments, app.publisher, payment_timeout=options.payment_timeout)
    catalogue = Catalogue.from_json(files("orders").joinpath("catalogue.json").read_text(encoding="utf-8"))
    app.add_servicer(OrderService(store, checkout, catalogue))
    app.add_servicer(OrderEvents(store, checkout, options))
    return app
