"""Secrets of a real HashiCorp Vault, through the real daprd."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from apibase import SecretNotFoundError, SecretsManager, SecretStoreUnavailable, Settings, Sidecar, SidecarError
from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology
from tests.plugins.stack_logs import running
from tests.sidecar.vault_server import TOKEN, VaultServer

# Without it in the cache Vault is built first, which takes minutes: `make test-full` does that before.
pytestmark = [pytest.mark.full, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(1800)]

TOPOLOGY = Path(__file__).parent / "vault" / "compose" / "dapr.yaml"
KEY = "sk-of-the-payment-provider"


@dataclass
class Teller:
    """An app's sidecar, and the Vault behind it."""

    vault: VaultServer
    sidecar: Sidecar
    stack: Stack

    @property
    def secrets(self) -> SecretsManager:
        return SecretsManager(self.sidecar, "hashicorp")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["1.18", "1.14"])
async def teller(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Teller]:
    folder = tmp_path_factory.mktemp("vault")
    file = folder / "bootstrap.json"
    file.write_text(json.dumps({"vault-token": TOKEN, "old-token": "token-of-last-year"}))
    async with VaultServer(folder) as vault:
        environment = {"VAULT_ADDRESS": vault.address, "BOOTSTRAP_FILE": str(file)}
        options = StackOptions(env={"teller": environment}, dapr=request.param)
        async with Stack(read_topology(TOPOLOGY), options) as stack:
            running.append(stack)
            sidecar = Sidecar(Settings(app_id="teller", dapr_grpc_endpoint=stack.sidecar("teller").grpc_address))
            await sidecar.wait_ready(20)
            yield Teller(vault, sidecar, stack)
            await sidecar.close()
            running.remove(stack)


@pytest.mark.req("R5.1", "R5.5")
async def test_a_secret_is_read_with_a_token_that_is_a_secret_itself(teller: Teller) -> None:
    await teller.vault.write("provider", key=KEY)

    assert (await teller.secrets.get("provider")).reveal() == KEY


@pytest.mark.req("R5.1")
async def test_a_secret_of_several_keys_and_an_older_version_of_it(teller: Teller) -> None:
    await teller.vault.write("account", user="ann-of-the-bank", pin="9876")
    await teller.vault.write("account", user="bob-of-the-bank", pin="5432")

    assert (await teller.secrets.get("account", key="user")).reveal() == "bob-of-the-bank"
    old = await teller.secrets.get_all("account", metadata={"version_id": "1"})
    assert {key: value.reveal() for key, value in old.items()} == {"user": "ann-of-the-bank", "pin": "9876"}
    with pytest.raises(ValueError, match="has several keys"):
        await teller.secrets.get("account")


@pytest.mark.req("R5.2")
async def test_all_secrets_are_read_at_once(teller: Teller) -> None:
    await teller.vault.write("bulk/one", key="first-in-bulk")
    await teller.vault.write("bulk/two", key="second-in-bulk", more="third-in-bulk")

    found = await teller.secrets.bulk()

    revealed = {name: {key: value.reveal() for key, value in each.items()} for name, each in found.items()}
    assert revealed["bulk/one"] == {"key": "first-in-bulk"}
    assert revealed["bulk/two"] == {"key": "second-in-bulk", "more": "third-in-bulk"}


@pytest.mark.req("R5.2")
async def test_a_vault_without_secrets_has_none(teller: Teller) -> None:
    assert await SecretsManager(teller.sidecar, "hollow").bulk() == {}


@pytest.mark.req("R5.3")
async def test_a_secret_that_is_not_there_or_not_any_more(teller: Teller) -> None:
    await teller.vault.write("passing", key="here-today")
    await teller.vault.delete("passing")

    for name in ("never-there", "passing"):
        with pytest.raises(SecretNotFoundError, match=f"'hashicorp' has no secret '{name}'") as caught:
            await teller.secrets.get(name)
        assert caught.value.name == name
    with pytest.raises(SecretNotFoundError):
        await teller.secrets.get("passing", metadata={"version_id": "99"})


async def test_a_token_that_vault_does_not_know_is_refused_for_good(teller: Teller) -> None:
    await teller.vault.write("provider", key=KEY)
    secrets = SecretsManager(teller.sidecar, "stranger")

    for call in (secrets.get("provider"), secrets.bulk()):
        with pytest.raises(SidecarError) as caught:
            await call
        assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
        assert not caught.value.retryable


@pytest.mark.req("R5.4")
async def test_a_vault_that_is_sealed_or_away_is_unavailable_until_it_is_back(teller: Teller) -> None:
    await teller.vault.write("provider", key=KEY)
    await teller.vault.seal()
    with pytest.raises(SecretStoreUnavailable, match=r"'hashicorp' does not answer.*503") as caught:
        await teller.secrets.get("provider")
    assert caught.value.retryable

    await teller.vault.stop()
    for call in (teller.secrets.get("provider"), teller.secrets.bulk()):
        with pytest.raises(SecretStoreUnavailable, match="connection refused"):
            await call

    await teller.vault.start()
    await teller.vault.write("provider", key=KEY)
    assert (await teller.secrets.get("provider")).reveal() == KEY


@pytest.mark.req("R13.4")
async def test_no_secret_is_in_a_log_of_the_sidecar(teller: Teller) -> None:
    logs = "".join(file.read_text(encoding="utf-8", errors="replace") for file in teller.stack.log_folder.glob("*"))

    assert "hashicorp" in logs
    for secret in (KEY, TOKEN, "ann-of-the-bank", "token-of-last-year"):
        assert secret not in logs
