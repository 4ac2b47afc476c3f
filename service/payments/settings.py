"""Settings of the payments service itself, beside the chassis' own."""

from __future__ import annotations

from pydantic import AliasGenerator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class PaymentSettings(BaseSettings):
    """Read from `PAYMENTS_…` variables when constructed."""

    # Aliases, not a prefix: an error names the variable then.
    model_config = SettingsConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda field: f"PAYMENTS_{field.upper()}"),
        frozen=True,
        populate_by_name=True,
    )

    store: str = Field("statestore", description="State store component of the ledger.")
    secret_store: str = Field("secrets", description="Secret store component that has the payment provider's key.")
    provider_key: str = Field("payment-provider-key", description="Name of that key in the secret store.")
    secret_cache: float = Field(
        300.0, ge=0, allow_inf_nan=False, description="Seconds that the key is kept before the store is asked again."
    )
