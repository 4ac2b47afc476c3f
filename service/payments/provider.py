"""The payment provider: a stand-in that takes calls from who has a key, and decides by the token alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apibase import SecretsManager

DECLINED_PREFIX = "tok_declined"


class PaymentProvider:
    """Calls the provider, with the key that the secret store has."""

    def __init__(self, secrets: SecretsManager, key_name: str) -> None:
        self._secrets = secrets
        self._key_name = key_name

    async def check_key(self) -> None:
        """Raise `SecretNotFoundError` where the store has no key, at the start rather than at the first payment."""
        await self._secrets.get(self._key_name)

    async def decline_reason(self, payment_token: str) -> str:
        """Return why the provider declines a token, or an empty string where it authorises."""
        key = await self._secrets.get(self._key_name)
        return _answer(payment_token, authorization=f"Bearer {key.reveal()}")


def _answer(payment_token: str, *, authorization: str) -> str:
    """Answer as the provider would over the network."""
    if authorization == "Bearer ":
        raise PermissionError("the payment provider takes no calls without a key")
    return "card_declined" if payment_token.startswith(DECLINED_PREFIX) else ""
