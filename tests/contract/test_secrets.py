"""Secrets: what a store has, what it lacks, and what a store that does not answer looks like."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import grpc
import pytest

from apibase import SecretNotFoundError, SecretsManager, SecretStoreUnavailable, SidecarError, StateManager
from tests.contract.sides import SECRETS, Side


@pytest.mark.req("R5.1")
@pytest.mark.parametrize(
    ("store", "name", "text"),
    [
        ("vault", "api-key", SECRETS["api-key"]),
        ("vault", "nested:pin", "1234"),
        ("vault-multi", "api-key", SECRETS["api-key"]),
        ("environment", "PROVIDER", "key-in-the-environment"),
    ],
)
async def test_a_secret_is_read_by_its_name(side: Side, store: str, name: str, text: str) -> None:
    assert (await SecretsManager(side.sidecar, store).get(name)).reveal() == text


@pytest.mark.req("R5.1")
async def test_a_secret_of_several_keys_is_read_by_key_or_whole(side: Side) -> None:
    secrets = SecretsManager(side.sidecar, "vault-multi")

    assert (await secrets.get("nested", key="pin")).reveal() == "1234"
    assert {key: value.reveal() for key, value in (await secrets.get_all("nested")).items()} == SECRETS["nested"]
    with pytest.raises(ValueError, match=r"'nested' has several keys \(pin, user\)"):
        await secrets.get("nested")


@pytest.mark.req("R5.2")
async def test_all_secrets_of_a_store_are_read_at_once(side: Side) -> None:
    found = await SecretsManager(side.sidecar, "vault-multi").bulk()

    revealed = {name: {key: value.reveal() for key, value in secret.items()} for name, secret in found.items()}
    assert revealed.pop("sqlite-file").keys() == {"sqlite-file"}
    assert revealed == {
        "database": {"database": SECRETS["database"]},
        "api-key": {"api-key": SECRETS["api-key"]},
        "nested": SECRETS["nested"],
    }


@pytest.mark.req("R5.2")
async def test_a_store_of_single_values_has_nested_ones_by_their_path(side: Side) -> None:
    found = await SecretsManager(side.sidecar, "vault").bulk()

    assert found.keys() == {"database", "api-key", "nested:user", "nested:pin", "sqlite-file"}


@pytest.mark.req("R5.2")
async def test_the_environment_has_the_variables_with_its_prefix(side: Side) -> None:
    found = await SecretsManager(side.sidecar, "environment").bulk()

    assert {name: secret[name].reveal() for name, secret in found.items()} == {"PROVIDER": "key-in-the-environment"}


@pytest.mark.req("R5.3")
@pytest.mark.parametrize("store", ["vault", "vault-multi", "environment"])
async def test_a_secret_that_is_not_there_is_named(side: Side, store: str) -> None:
    with pytest.raises(SecretNotFoundError, match=f"'{store}' has no secret 'forgotten'") as caught:
        await SecretsManager(side.sidecar, store).get("forgotten")

    error = caught.value
    assert (error.name, error.key, error.component, error.code) == ("forgotten", None, store, grpc.StatusCode.NOT_FOUND)
    assert not error.retryable


@pytest.mark.req("R5.3")
async def test_a_key_that_a_secret_lacks_is_named(side: Side) -> None:
    with pytest.raises(SecretNotFoundError, match="has no key 'iris' in the secret 'nested'") as caught:
        await SecretsManager(side.sidecar, "vault-multi").get("nested", key="iris")

    assert (caught.value.name, caught.value.key) == ("nested", "iris")


@pytest.mark.req("R5.4")
async def test_a_store_that_does_not_answer_is_unavailable_and_worth_another_try(side: Side) -> None:
    secrets = SecretsManager(side.sidecar, "unreachable")
    if side.server is not None:  # its stores are where it is
        for operation in ("GetSecret", "GetBulkSecret"):
            refused = "connection refused"
            side.server.faults.add(operation=operation, status=grpc.StatusCode.INTERNAL, message=refused, times=1)

    for call in (secrets.get("api-key"), secrets.bulk()):
        with pytest.raises(
            SecretStoreUnavailable, match=r"'unreachable' does not answer.*connection refused"
        ) as caught:
            await call
        assert caught.value.retryable
        assert (caught.value.component, caught.value.code) == ("unreachable", grpc.StatusCode.UNAVAILABLE)


async def test_a_store_that_is_not_loaded_is_no_matter_of_waiting(side: Side) -> None:
    secrets = SecretsManager(side.sidecar, "nowhere")

    for call in (secrets.get("api-key"), secrets.bulk()):
        with pytest.raises(SidecarError, match="failed finding secret store with key nowhere") as caught:
            await call
        assert not caught.value.retryable
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_cached_secret_is_read_once_by_all_who_ask_at_once(side: Side) -> None:
    secrets = SecretsManager(side.sidecar, "vault", cache_for=timedelta(minutes=1))

    values = await asyncio.gather(*(secrets.get("api-key") for _ in range(50)))

    assert len({id(value) for value in values}) == 1
    assert await secrets.get("api-key") is values[0]


@pytest.mark.req("R5.5")
async def test_a_component_takes_a_field_from_a_secret_store(side: Side) -> None:
    # Its connection string is a secret of `vault`.
    state, key = StateManager(side.sidecar, "by-reference"), side.key()

    await state.save(key, {"kept": True})

    found = await state.get(key, dict)
    assert found is not None
    assert found.value == {"kept": True}
    if side.stack is not None:
        file = (await SecretsManager(side.sidecar, "vault").get("sqlite-file")).reveal()
        assert side.files.parent.joinpath("by-reference.db").samefile(file)


@pytest.mark.req("R13.4")
async def test_no_secret_is_in_what_a_client_logs(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = SecretsManager(side.sidecar, "vault")

    value = await secrets.get("database")
    logging.getLogger("test").info("read %s, %r, %s", value, value, [value])

    assert SECRETS["database"] not in caplog.text
    assert "SecretValue(***)" in caplog.text
