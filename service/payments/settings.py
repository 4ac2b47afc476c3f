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
