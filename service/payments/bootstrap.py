"""Where the payments service is put together."""

from __future__ import annotations

from apibase import App, Settings
from payments.service import PaymentService
from payments.settings import PaymentSettings


def build(settings: Settings | None = None, payment_settings: PaymentSettings | None = None) -> App:
    """Return the app, ready to run."""
    app = App(settings)
    options = payment_settings or PaymentSettings()
    app.add_servicer(PaymentService(app.state(options.store), app.publisher))
    return app
