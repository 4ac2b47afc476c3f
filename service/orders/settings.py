"""Settings of the orders service itself, beside the chassis' own."""

from __future__ import annotations

from pydantic import AliasGenerator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class OrderSettings(BaseSettings):
    """Read from `ORDERS_…` variables when constructed."""

    # Aliases, not a prefix: an error names the variable then.
    model_config = SettingsConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda field: f"ORDERS_{field.upper()}"),
        frozen=True,
        populate_by_name=True,
    )

    store: str = Field("statestore", description="State store component of the order rows.")
    payments_app_id: str = Field("payments", description="App id of the payments service.")
    payment_timeout: float = Field(3.0, gt=0, description="Deadline in seconds of one call to payments.")
    expiry: float = Field(900.0, gt=0, description="Seconds after which an order that did not settle expires.")
    sweep_grace: float = Field(
        5.0, ge=0, description="Seconds that an order is left to its own call before the sweep takes it up."
    )
