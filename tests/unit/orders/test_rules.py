"""The rules of orders, by example and by property."""

from __future__ import annotations

import uuid
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.rules import Amount, Catalogue, Line, PricedLine, Problem, body_hash, order_id, total

NANOS = 1_000_000_000
amounts = st.builds(
    Amount, st.just("EUR"), st.integers(min_value=0, max_value=10**9), st.integers(min_value=0, max_value=NANOS - 1)
)
quantities = st.integers(min_value=1, max_value=1000)
names = st.text(min_size=1, max_size=64)
lines = st.lists(st.builds(Line, st.text(max_size=8), st.integers()), max_size=4)
bodies = st.tuples(st.text(max_size=3), lines, st.text(max_size=8), st.text(max_size=8))


def exact(amount: Amount) -> Fraction:
    return Fraction(amount.units * NANOS + amount.nanos, NANOS)


@given(amounts, quantities)
def test_an_amount_taken_some_times_is_exact(amount: Amount, quantity: int) -> None:
    product = amount.times(quantity)

    assert exact(product) == exact(amount) * quantity
    assert 0 <= product.nanos < NANOS
    assert product.currency == "EUR"


@given(amounts, amounts)
def test_a_sum_is_exact_and_its_order_does_not_matter(one: Amount, other: Amount) -> None:
    together = one.plus(other)

    assert exact(together) == exact(one) + exact(other)
    assert 0 <= together.nanos < NANOS
    assert together == other.plus(one)


def test_amounts_of_two_currencies_have_no_sum() -> None:
    with pytest.raises(ValueError, match="cannot add JPY to EUR"):
        Amount("EUR", 1).plus(Amount("JPY", 1))


@given(st.lists(st.tuples(amounts, quantities), min_size=1, max_size=100))
def test_a_total_is_the_exact_sum_of_its_lines(priced: list[tuple[Amount, int]]) -> None:
    whole = total([PricedLine("SKU", quantity, amount) for amount, quantity in priced])

    assert exact(whole) == sum(exact(amount) * quantity for amount, quantity in priced)


@given(names, names, names, names)
def test_two_pairs_of_customer_and_key_never_share_an_order_id(
    customer: str, key: str, other_customer: str, other_key: str
) -> None:
    same = (customer, key) == (other_customer, other_key)

    assert (order_id(customer, key) == order_id(other_customer, other_key)) is same


@given(st.text(min_size=2, max_size=20), st.data())
def test_the_border_between_customer_and_key_counts(text: str, data: st.DataObject) -> None:
    one, other = data.draw(st.tuples(*[st.integers(min_value=0, max_value=len(text))] * 2))

    assert (order_id(text[:one], text[one:]) == order_id(text[:other], text[other:])) is (one == other)


def test_an_order_id_is_a_uuid5_that_never_changes() -> None:
    assert order_id("ann", "key-1") == "bb550da4-adb8-588b-8282-f8599fab2c67"
    assert uuid.UUID(order_id("ann", "key-1")).version == 5


@given(bodies, bodies)
def test_two_bodies_share_a_hash_only_if_they_say_the_same(
    one: tuple[str, list[Line], str, str], other: tuple[str, list[Line], str, str]
) -> None:
    assert (body_hash(*one) == body_hash(*other)) is (one == other)


@given(bodies)
def test_a_body_hash_is_a_sha_256_that_shows_nothing_of_the_body(body: tuple[str, list[Line], str, str]) -> None:
    assert len(bytes.fromhex(body_hash(*body))) == 32


def test_the_order_of_lines_is_part_of_the_body() -> None:
    one, other = Line("A", 1), Line("B", 1)

    assert body_hash("EUR", [one, other], "t", "") != body_hash("EUR", [other, one], "t", "")


CATALOGUE = Catalogue.from_json('{"MUG": {"EUR": "11.50", "JPY": "1800"}, "TEA": {"EUR": "0.000000001"}}')


def test_a_catalogue_prices_what_it_sells() -> None:
    priced, problems = CATALOGUE.price([Line("MUG", 2), Line("TEA", 1), Line("MUG", 1)], "EUR")

    assert problems == []
    assert priced == [
        PricedLine("MUG", 2, Amount("EUR", 11, 500_000_000)),
        PricedLine("TEA", 1, Amount("EUR", 0, 1)),
        PricedLine("MUG", 1, Amount("EUR", 11, 500_000_000)),
    ]
    assert CATALOGUE.price([Line("MUG", 1)], "JPY")[0] == [PricedLine("MUG", 1, Amount("JPY", 1800))]


def test_what_is_not_sold_is_named_with_its_place_and_why() -> None:
    priced, problems = CATALOGUE.price([Line("GOLD", 1), Line("MUG", 1), Line("TEA", 1)], "JPY")

    assert [line.sku for line in priced] == ["MUG"]
    assert [(problem.index, problem.sku, problem.problem) for problem in problems] == [
        (0, "GOLD", Problem.UNKNOWN_SKU),
        (2, "TEA", Problem.CURRENCY_NOT_OFFERED),
    ]


@given(st.decimals(min_value=0, max_value=10**9, places=2))
def test_a_price_is_read_exactly(price: object) -> None:
    catalogue = Catalogue.from_json(f'{{"MUG": {{"EUR": "{price}"}}}}')

    (line,) = catalogue.price([Line("MUG", 1)], "EUR")[0]

    assert exact(line.unit_price) == Fraction(str(price))


@pytest.mark.parametrize(
    "price", ["", "-1.50", "-0.50", "1.1234567891", "1.5.2", "1,50", "1e3", "NaN", "1.", ".5", "1.-5", " 1"]
)
def test_a_price_that_is_no_price_is_refused(price: str) -> None:
    with pytest.raises(ValueError, match="MUG"):
        Catalogue.from_json(f'{{"MUG": {{"EUR": "{price}"}}}}')
