"""Where the payments service is put together."""

from __future__ import annotations

from datetime import timedelta

from apibase import App, Settings
from payments.provider import PaymentProvider
from payments.service import PaymentService
from payments.settings import PaymentSettings


def build(settings: Settings | None = None, payment_settings: PaymentSettings | None = None) -> App:
    """Return the app, ready to run."""
    app = App(settings)
    options = payment_settings or PaymentSettings()
    secrets = app.secrets(options.secret_store, cache_for=timedelta(seconds=options.secret_cache))
    provider = PaymentProvider(secrets, options.provider_key)
    app.before_ready(provider.check_key)
    app.add_servicer(PaymentService(app.state(options.store), app.publisher, provider))
    return app
