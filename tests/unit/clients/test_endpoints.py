"""Where the sidecar may be: TCP, a Unix socket, behind TLS."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
import trustme
from dapr.proto import api_v1

from apibase import Settings, Sidecar
from apibase.errors import SidecarUnavailable
from tests.unit.fake_dapr import FakeDapr

GET = api_v1.GetStateRequest(store_name="store", key="a")


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


def behind_tls(authority: trustme.CA) -> FakeDapr:
    issued = authority.issue_cert("localhost")
    pair = issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes()
    return FakeDapr("localhost:0", credentials=grpc.ssl_server_credentials([pair]))


async def get(settings: Settings) -> None:
    sidecar = Sidecar(settings)
    try:
        await sidecar.call(lambda: sidecar.stub.GetState(GET))
    finally:
        await sidecar.close()


@pytest.mark.req("R1.1")
async def test_the_sidecar_may_be_at_a_port(settings: Settings) -> None:
    async with FakeDapr("127.0.0.1:0") as dapr:
        await get(Settings(dapr_host="127.0.0.1", dapr_grpc_port=dapr.port))

    assert dapr.last("GetState").request.key == "a"


@pytest.mark.req("R1.1")
async def test_the_sidecar_may_be_at_a_unix_socket(socket_folder: Path) -> None:
    address = f"unix://{socket_folder}/dapr.sock"
    async with FakeDapr(address) as dapr:
        await get(Settings(dapr_grpc_endpoint=address))

    assert dapr.last("GetState").request.key == "a"


@pytest.mark.req("R1.1")
@pytest.mark.parametrize("written", ["https://localhost:{}", "localhost:{}?tls=true"])
async def test_the_sidecar_may_be_behind_tls_of_an_authority_of_ones_own(
    authority: trustme.CA, tmp_path: Path, written: str
) -> None:
    async with behind_tls(authority) as dapr:
        await get(Settings(dapr_grpc_endpoint=written.format(dapr.port), sidecar_ca_file=tmp_path / "ca.pem"))

    assert dapr.last("GetState").request.key == "a"


async def test_a_certificate_of_another_authority_is_refused(authority: trustme.CA, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    async with behind_tls(authority) as dapr:
        with pytest.raises(SidecarUnavailable):
            await get(
                Settings(
                    dapr_grpc_endpoint=f"https://localhost:{dapr.port}",
                    sidecar_ca_file=tmp_path / "other.pem",
                    call_timeout=1,
                )
            )

    assert dapr.calls == []


def test_a_file_of_authorities_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sidecar_ca_file"):
        Settings(sidecar_ca_file=tmp_path / "none.pem")
