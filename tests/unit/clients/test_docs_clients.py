"""docs/secrets.md and docs/configuration-live.md: their examples do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dapr.proto import api_v1, common_v1

from apibase import ConfigurationMissing, SecretNotFoundError
from tests.unit.fake_dapr import FakeDapr

DOCS = Path(__file__).parents[3] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    found = BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    return [text for name, text in found if name == language]


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "docs", "exec", dont_inherit=True), names)
    return names


class Live(FakeDapr):
    """A sidecar with the configuration of the example."""

    configured = {"limits": '{"orders": 3}', "banner": "welcome"}  # noqa: RUF012 - of a double

    async def GetConfiguration(self, request: Any, context: Any) -> Any:
        items = {key: common_v1.ConfigurationItem(value=value) for key, value in self.configured.items()}
        return api_v1.GetConfigurationResponse(items=items if request.store_name == "live" else {})


@pytest.fixture
def environment(socket_folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    address = f"unix://{socket_folder}/dapr.sock"
    for name, value in {"DAPR_GRPC_ENDPOINT": address, "APP_PORT": "0", "APP_ID": "desk"}.items():
        monkeypatch.setenv(name, value)
    return address


@pytest.mark.req("R5.1", "R5.3")
async def test_the_first_example_of_secrets_reads_and_tells(environment: str) -> None:
    example = run(blocks("secrets.md", "python")[0])
    async with FakeDapr(environment) as dapr:
        app = example["build"]()
        try:
            await app.start()
            assert await example["charge"](app.secrets("secrets")) == "Authorization: Bearer key-of-the-fake"
            dapr.secrets.clear()
            assert await example["charge"](app.secrets("secrets")) == "there is no payment-provider-key"
        finally:
            await app.stop()
        app = example["build"]()
        try:
            with pytest.raises(SecretNotFoundError):
                await app.start()
        finally:
            await app.stop()


@pytest.mark.req("R13.4")
def test_the_second_example_of_secrets_shows_nothing() -> None:
    run(blocks("secrets.md", "python")[1])


@pytest.mark.req("R5.5")
def test_the_components_of_secrets_are_components() -> None:
    components = [yaml.safe_load(text) for text in blocks("secrets.md", "yaml")]

    assert components[0]["spec"]["metadata"][0]["secretKeyRef"] == {"name": "postgres", "key": "connection"}
    assert [each["spec"]["type"] for each in components[1:]] == [
        "secretstores.local.file",
        "secretstores.hashicorp.vault",
        "secretstores.kubernetes",
        "secretstores.azure.keyvault",
    ]
    shipped = yaml.safe_load((DOCS.parent / "compose/components/secrets.yaml").read_text(encoding="utf-8"))
    assert components[1]["spec"] == shipped["spec"]


@pytest.mark.req("R12.1", "R12.3")
async def test_the_example_of_configuration_starts_with_its_values(
    environment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = blocks("configuration-live.md", "python")[0].replace("/var/lib/shop", str(tmp_path))
    async with Live(environment):
        app = run(code)["build"]()
        try:
            await app.start()
        finally:
            await app.stop()
    assert capsys.readouterr().out.splitlines()[-1] == "100 3 welcome"
    assert (tmp_path / "configuration.json").exists()


async def test_the_example_of_configuration_does_not_start_without_what_it_needs(
    environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Live, "configured", {})
    code = blocks("configuration-live.md", "python")[0].replace("/var/lib/shop", str(tmp_path))
    async with Live(environment):
        app = run(code)["build"]()
        try:
            with pytest.raises(ConfigurationMissing, match="'banner' has no default and no value in live, defaults"):
                await app.start()
        finally:
            await app.stop()
