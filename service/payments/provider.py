"""The payment provider: a stand-in that decides by the token alone."""

from __future__ import annotations

DECLINED_PREFIX = "tok_declined"


def decline_reason(payment_token: str) -> str:
    """Return why the provider declines a token, or an empty string where it authorises."""
    return "card_declined" if payment_token.startswith(DECLINED_PREFIX) else ""
