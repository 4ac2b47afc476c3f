"""Where the payments service is put together."""

from __future__ import annotations

import os

from apibase import App, Settings
from payments.service import PaymentService


def build(settings: Settings | None = None) -> App:
    """Return the app, ready to run."""
    app = App(settings)
    app.add_servicer(PaymentService(app.state(os.environ.get("PAYMENTS_STORE", "statestore")), app.publisher))
    return app
