"""Secrets: what each store's words for a missing secret mean, and the cache."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from dapr.proto import api_v1

from apibase import (
    App,
    SecretNotFoundError,
    SecretsManager,
    SecretStoreUnavailable,
    SecretValue,
    Settings,
    Sidecar,
    SidecarError,
    SidecarUnavailable,
)
from apibase.deadline import deadline
from tests.unit.fake_dapr import FakeDapr

NAME, STORE = "provider-key", "vault"


class Vault(FakeDapr):
    """A sidecar with a secret store."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.secrets: dict[str, dict[str, str]] = {NAME: {NAME: "first-of-the-keys"}}
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def reads(self) -> int:
        return sum(call.method == "GetSecret" for call in self.calls)

    async def GetSecret(self, request: Any, context: Any) -> Any:
        await self._take("GetSecret", request, context)
        found = dict(self.secrets.get(request.key, {}))
        await self.gate.wait()
        return api_v1.GetSecretResponse(data=found)

    async def GetBulkSecret(self, request: Any, context: Any) -> Any:
        await self._take("GetBulkSecret", request, context)
        return api_v1.GetBulkSecretResponse(
            data={name: api_v1.SecretResponse(secrets=values) for name, values in self.secrets.items()}
        )


@pytest.fixture
async def vault(settings: Settings) -> AsyncIterator[Vault]:
    async with Vault(settings.sidecar_address) as fake:
        yield fake


@pytest.fixture
async def sidecar(settings: Settings, vault: Vault) -> AsyncIterator[Sidecar]:
    made = Sidecar(settings)
    yield made
    await made.close()


def failed(words: str) -> str:
    return f"failed getting secret with key {NAME} from secret store {STORE}: {words}"


@pytest.mark.req("R5.3")
@pytest.mark.parametrize(
    "words",
    [
        f"secret {NAME} not found",
        f"getSecret {NAME} failed secret key or version not exist",
        f'secrets "{NAME}" not found',
        "GET https://shop.vault.azure.net/secrets/provider-key: ERROR CODE: SecretNotFound",
        "couldn't get secret: ResourceNotFoundException: Secrets Manager can't find it",
        "ParameterNotFound: ",
        "failed to access secret version: rpc error: code = NotFound desc = Secret not found",
    ],
)
async def test_each_store_s_words_for_a_secret_that_is_not_there(sidecar: Sidecar, vault: Vault, words: str) -> None:
    vault.fail("GetSecret", grpc.StatusCode.INTERNAL, failed(words))

    with pytest.raises(SecretNotFoundError) as caught:
        await SecretsManager(sidecar, STORE).get(NAME)

    assert (caught.value.name, caught.value.component) == (NAME, STORE)


@pytest.mark.req("R5.4")
@pytest.mark.parametrize(
    "words",
    [
        "couldn't get secret: Get http://vault:8200/v1/secret/data/dapr/x: dial tcp: lookup vault: no such host",
        "couldn't get successful response, status code 503, body Vault is sealed",
        "couldn't get successful response, status code 404 page not found",
        "secret another-one not found",
        "circuit breaker is open",
        "context deadline exceeded",
    ],
)
async def test_whatever_else_a_store_says_is_that_it_does_not_answer(
    sidecar: Sidecar, vault: Vault, words: str
) -> None:
    vault.fail("GetSecret", grpc.StatusCode.INTERNAL, failed(words))

    with pytest.raises(SecretStoreUnavailable, match=f"'{STORE}' does not answer") as caught:
        await SecretsManager(sidecar, STORE).get(NAME)

    assert caught.value.retryable
    assert vault.reads == 1, "the sidecar's policies retry, not we"


@pytest.mark.parametrize(
    "words",
    [
        "couldn't get successful response, status code 403, body permission denied",
        'secrets "provider-key" is forbidden: User can\'t get resource',
    ],
)
async def test_a_store_that_refuses_is_no_matter_of_waiting(sidecar: Sidecar, vault: Vault, words: str) -> None:
    vault.fail("GetSecret", grpc.StatusCode.INTERNAL, failed(words))

    with pytest.raises(SidecarError) as caught:
        await SecretsManager(sidecar, STORE).get(NAME)

    assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
    assert not caught.value.retryable


async def test_a_secret_out_of_the_app_s_scope_is_refused_as_daprd_does(sidecar: Sidecar, vault: Vault) -> None:
    text = f'access denied by policy to get "{NAME}" from "{STORE}"'
    vault.fail("GetSecret", grpc.StatusCode.PERMISSION_DENIED, text)

    with pytest.raises(SidecarError, match="access denied by policy") as caught:
        await SecretsManager(sidecar, STORE).get(NAME)

    assert not isinstance(caught.value, SecretStoreUnavailable)


@pytest.mark.req("R5.4")
async def test_a_sidecar_that_can_not_be_reached_is_another_matter(settings: Settings) -> None:
    sidecar = Sidecar(settings.model_copy(update={"call_timeout": 0.3}))

    with pytest.raises(SidecarUnavailable):
        await SecretsManager(sidecar, STORE).get(NAME)

    await sidecar.close()


@pytest.mark.req("R5.4")
async def test_a_sidecar_that_is_away_for_a_moment_is_asked_again(sidecar: Sidecar, vault: Vault) -> None:
    vault.fail("GetSecret", grpc.StatusCode.UNAVAILABLE)

    assert (await SecretsManager(sidecar, STORE).get(NAME)).reveal() == "first-of-the-keys"
    assert vault.reads == 2


@pytest.mark.req("R5.4")
async def test_a_store_that_takes_longer_than_the_caller_has_is_unavailable(sidecar: Sidecar, vault: Vault) -> None:
    vault.gate.clear()
    for cache_for in (None, timedelta(minutes=1)):
        token = deadline.set_remaining(0.2)
        try:
            with pytest.raises(SecretStoreUnavailable, match="no answer in time"):
                await SecretsManager(sidecar, STORE, cache_for=cache_for).get(NAME)
        finally:
            deadline.reset(token)
    vault.gate.set()


@pytest.mark.req("R5.3")
async def test_an_empty_variable_is_no_secret_and_an_empty_secret_is_one(sidecar: Sidecar, vault: Vault) -> None:
    vault.components |= {"environment": "secretstores.local.env", STORE: "secretstores.local.file"}
    vault.secrets["EMPTY"] = {"EMPTY": ""}

    with pytest.raises(SecretNotFoundError):
        await SecretsManager(sidecar, "environment").get("EMPTY")
    assert (await SecretsManager(sidecar, STORE).get("EMPTY")).reveal() == ""


async def test_an_answer_without_any_value_is_no_secret(sidecar: Sidecar) -> None:
    with pytest.raises(SecretNotFoundError):
        await SecretsManager(sidecar, STORE).get("nothing-there")


async def test_a_secret_has_a_name(sidecar: Sidecar) -> None:
    with pytest.raises(ValueError, match="a secret has a name"):
        await SecretsManager(sidecar, STORE).get("")


async def test_metadata_is_for_the_store(sidecar: Sidecar, vault: Vault) -> None:
    secrets = SecretsManager(sidecar, STORE)

    await secrets.get(NAME, metadata={"version_id": "3"})
    await secrets.bulk(metadata={"version_id": "4"})

    assert dict(vault.last("GetSecret").request.metadata) == {"version_id": "3"}
    assert dict(vault.last("GetBulkSecret").request.metadata) == {"version_id": "4"}


@pytest.mark.req("R5.2")
async def test_bulk_has_every_value_of_every_secret(sidecar: Sidecar, vault: Vault) -> None:
    vault.secrets["account"] = {"user": "ann-of-the-bank", "pin": "9876"}

    found = await SecretsManager(sidecar, STORE).bulk()

    assert {name: {key: value.reveal() for key, value in each.items()} for name, each in found.items()} == vault.secrets


async def test_without_a_cache_each_get_asks(sidecar: Sidecar, vault: Vault) -> None:
    secrets = SecretsManager(sidecar, STORE)
    await secrets.get(NAME)
    vault.secrets[NAME] = {NAME: "second-of-the-keys"}

    assert (await secrets.get(NAME)).reveal() == "second-of-the-keys"


async def test_what_is_cached_is_asked_for_again_when_its_time_is_over(
    sidecar: Sidecar, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("apibase.clients.secrets.time", _Clock(now))
    secrets = SecretsManager(sidecar, STORE, cache_for=timedelta(seconds=30))
    assert (await secrets.get(NAME)).reveal() == "first-of-the-keys"
    vault.secrets[NAME] = {NAME: "second-of-the-keys"}

    now[0] += 29
    assert (await secrets.get(NAME)).reveal() == "first-of-the-keys"
    now[0] += 2
    assert (await secrets.get(NAME)).reveal() == "second-of-the-keys"


class _Clock:
    def __init__(self, now: list[float]) -> None:
        self._now = now

    def monotonic(self) -> float:
        return self._now[0]


async def test_forget_empties_the_cache(sidecar: Sidecar, vault: Vault) -> None:
    secrets = SecretsManager(sidecar, STORE, cache_for=timedelta(minutes=1))
    await secrets.get(NAME)
    vault.secrets[NAME] = {NAME: "second-of-the-keys"}

    secrets.forget()

    assert (await secrets.get(NAME)).reveal() == "second-of-the-keys"


async def test_forget_counts_for_a_read_that_is_under_way_too(sidecar: Sidecar, vault: Vault) -> None:
    secrets = SecretsManager(sidecar, STORE, cache_for=timedelta(minutes=1))
    vault.gate.clear()
    before = asyncio.create_task(secrets.get(NAME))
    await _called(vault)
    vault.secrets[NAME] = {NAME: "second-of-the-keys"}

    secrets.forget()
    after = asyncio.create_task(secrets.get(NAME))
    await _called(vault, 2)
    vault.gate.set()

    assert [(await each).reveal() for each in (before, after)] == ["first-of-the-keys", "second-of-the-keys"]
    assert (await secrets.get(NAME)).reveal() == "second-of-the-keys"
    assert vault.reads == 2


async def test_an_old_answer_that_comes_after_forget_is_not_cached(sidecar: Sidecar, vault: Vault) -> None:
    secrets = SecretsManager(sidecar, STORE, cache_for=timedelta(minutes=1))
    vault.gate.clear()
    before = asyncio.create_task(secrets.get(NAME))
    await _called(vault)
    vault.secrets[NAME] = {NAME: "second-of-the-keys"}

    secrets.forget()
    vault.gate.set()
    await before

    assert (await secrets.get(NAME)).reveal() == "second-of-the-keys"


async def test_what_is_no_longer_served_is_no_longer_in_memory(
    sidecar: Sidecar, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("apibase.clients.secrets.time", _Clock(now))
    secrets = SecretsManager(sidecar, STORE, cache_for=timedelta(seconds=30))
    vault.secrets["other"] = {"other": "another-of-the-keys"}
    await secrets.get(NAME)

    now[0] += 31
    await secrets.get("other")

    held = {each.reveal() for each in gc.get_objects() if type(each) is SecretValue}
    assert "another-of-the-keys" in held
    assert "first-of-the-keys" not in held


async def test_versions_of_a_secret_are_cached_apart(sidecar: Sidecar, vault: Vault) -> None:
    secrets = SecretsManager(sidecar, STORE, cache_for=timedelta(minutes=1))

    for version in ("1", "2", "1"):
        await secrets.get(NAME, metadata={"version_id": version})

    assert vault.reads == 2


async def test_a_failure_is_not_cached(sidecar: Sidecar, vault: Vault) -> None:
    secrets = SecretsManager(sidecar, STORE, cache_for=timedelta(minutes=1))
    vault.fail("GetSecret", grpc.StatusCode.INTERNAL, failed("connection refused"))

    with pytest.raises(SecretStoreUnavailable):
        await secrets.get(NAME)

    assert (await secrets.get(NAME)).reveal() == "first-of-the-keys"


async def test_one_who_gives_up_does_not_take_the_answer_from_the_others(sidecar: Sidecar, vault: Vault) -> None:
    secrets = SecretsManager(sidecar, STORE, cache_for=timedelta(minutes=1))
    vault.gate.clear()
    asking = [asyncio.create_task(secrets.get(NAME)) for _ in range(10)]
    await asyncio.wait({asyncio.create_task(_called(vault))})

    asking[0].cancel()
    vault.gate.set()
    values = await asyncio.gather(*asking[1:])

    assert {value.reveal() for value in values} == {"first-of-the-keys"}
    assert asking[0].cancelled()
    assert vault.reads == 1


async def _called(vault: Vault, times: int = 1) -> None:
    async with asyncio.timeout(5):
        while vault.reads < times:
            await asyncio.sleep(0.005)


async def test_an_app_has_its_secret_stores(settings: Settings, vault: Vault) -> None:
    app = App(settings)

    assert (await app.secrets(STORE).get(NAME)).reveal() == "first-of-the-keys"
    assert app.secrets(STORE, cache_for=timedelta(minutes=1)).store_name == STORE

    await app.sidecar.close()
