"""The payment provider's key: a secret, there before the first payment, and read again now and then."""

from __future__ import annotations

import pytest

import payments.bootstrap
from apibase import SecretNotFoundError, SecretsManager, Settings, Sidecar
from payments.provider import PaymentProvider
from payments.settings import PaymentSettings
from tests.unit.conftest import Log
from tests.unit.fake_dapr import FakeDapr

NAME = "payment-provider-key"


@pytest.mark.req("R5.1")
async def test_a_payment_needs_the_key_that_the_secret_store_has(settings: Settings, dapr: FakeDapr) -> None:
    sidecar = Sidecar(settings)
    provider = PaymentProvider(SecretsManager(sidecar, "secrets"), NAME)

    assert await provider.decline_reason("tok_visa") == ""
    assert await provider.decline_reason("tok_declined_visa") == "card_declined"
    dapr.secrets[NAME] = {NAME: ""}
    with pytest.raises(PermissionError):
        await provider.decline_reason("tok_visa")
    await sidecar.close()


@pytest.mark.req("R5.3")
async def test_payments_does_not_start_without_the_key(settings: Settings, dapr: FakeDapr) -> None:
    dapr.secrets.clear()
    app = payments.bootstrap.build(settings, PaymentSettings(secret_store="vault"))

    try:
        with pytest.raises(SecretNotFoundError, match=f"'vault' has no secret '{NAME}'"):
            await app.start()
    finally:
        await app.stop()


@pytest.mark.req("R13.4")
async def test_the_key_is_in_no_line_of_the_log(settings: Settings, dapr: FakeDapr, log: Log) -> None:
    app = payments.bootstrap.build(settings)
    await app.start()
    await app.stop()

    assert len(log.lines) > 1
    assert dapr.secrets[NAME][NAME] not in log.text
