"""The rules of orders: identity, prices, and which status may follow which. The standard library only."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ORDERS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:shop:orders")
_NANOS = 1_000_000_000
_PRICE = re.compile(r"([0-9]+)(?:\.([0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of money: whole units and billionths of a unit, as google.type.Money counts them. Never negative here."""

    currency: str
    units: int
    nanos: int = 0

    def times(self, quantity: int) -> Amount:
        """Return the amount taken `quantity` times."""
        return self._of(quantity * (self.units * _NANOS + self.nanos))

    def plus(self, other: Amount) -> Amount:
        """Return the sum of two amounts of one currency."""
        if other.currency != self.currency:
            message = f"cannot add {other.currency} to {self.currency}"
            raise ValueError(message)
        return self._of((self.units + other.units) * _NANOS + self.nanos + other.nanos)

    def _of(self, billionths: int) -> Amount:
        units, nanos = divmod(billionths, _NANOS)
        return Amount(self.currency, units, nanos)


@dataclass(frozen=True, slots=True)
class Line:
    """What a customer asks for."""

    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class PricedLine:
    """A line with the price of one piece."""

    sku: str
    quantity: int
    unit_price: Amount


class Problem(Enum):
    """Why a line can't be sold."""

    UNKNOWN_SKU = "is not sold here"
    CURRENCY_NOT_OFFERED = "has no price in that currency"


@dataclass(frozen=True, slots=True)
class LineProblem:
    """The line at `index` (from 0) can't be sold."""

    index: int
    sku: str
    problem: Problem


class Catalogue:
    """What is sold, and for how much in each currency."""

    def __init__(self, prices: Mapping[str, Mapping[str, Amount]]) -> None:
        self._prices = prices

    @classmethod
    def from_json(cls, text: str) -> Catalogue:
        """Read `{"SKU": {"EUR": "12.50"}}`; prices are decimal strings."""
        return cls(
            {
                sku: {currency: _amount(sku, currency, price) for currency, price in prices.items()}
                for sku, prices in json.loads(text).items()
            }
        )

    def price(self, lines: Sequence[Line], currency: str) -> tuple[list[PricedLine], list[LineProblem]]:
        """Return the priced lines, and what is wrong with those that have no price."""
        priced: list[PricedLine] = []
        problems: list[LineProblem] = []
        for index, line in enumerate(lines):
            prices = self._prices.get(line.sku)
            if prices is None:
                problems.append(LineProblem(index, line.sku, Problem.UNKNOWN_SKU))
            elif currency not in prices:
                problems.append(LineProblem(index, line.sku, Problem.CURRENCY_NOT_OFFERED))
            else:
                priced.append(PricedLine(line.sku, line.quantity, prices[currency]))
        return priced, problems


def _amount(sku: str, currency: str, price: str) -> Amount:
    match = _PRICE.fullmatch(price)
    if match is None:
        message = f"the price of {sku} in {currency} is {price!r}, which is no decimal like 12.50"
        raise ValueError(message)
    units, fraction = match.groups(default="")
    return Amount(currency, int(units), int(fraction.ljust(9, "0")))


def total(lines: Sequence[PricedLine]) -> Amount:
    """Return what the lines, at least one, cost together."""
    first, *rest = [line.unit_price.times(line.quantity) for line in lines]
    for amount in rest:
        first = first.plus(amount)
    return first


def order_id(customer_id: str, idempotency_key: str) -> str:
    """Return the id of the one order that a customer can place with a key: a UUIDv5 of both."""
    # The length keeps ("ab", "c") and ("a", "bc") apart.
    return str(uuid.uuid5(_ORDERS, f"{len(customer_id)}:{customer_id}:{idempotency_key}"))


def body_hash(currency: str, lines: Sequence[Line], payment_token: str, note: str) -> str:
    """Return a SHA-256 in hex over all that an order says, apart from who says it and under which key."""
    body = {
        "currency": currency,
        "lines": [[line.sku, line.quantity] for line in lines],
        "payment_token": payment_token,
        "note": note,
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
