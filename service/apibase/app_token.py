"""The token by which an app knows that a call comes from its sidecar (`APP_API_TOKEN`)."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import grpc

from apibase.contract.reasons import chassis_reason
from apibase.errors import ServiceError
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pydantic import SecretStr

    Context = grpc.aio.ServicerContext[Any, Any]

TOKEN_HEADER = "dapr-api-token"  # noqa: S105 - a header's name


class AppToken:
    """Checks the token on calls that daprd makes with one: rpcs, invoked methods, events, bindings and jobs.

    daprd sends none with health probes and with the questions for subscriptions and bindings, so those are not checked.
    """

    def __init__(self, token: SecretStr | None) -> None:
        self._token = token.get_secret_value().encode() if token is not None and token.get_secret_value() else None

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise UNAUTHENTICATED unless `headers` carry the token; the comparison takes the same time for every wrong one."""
        if self._token is None:
            return
        given = headers.get(TOKEN_HEADER, "").encode()
        if not hmac.compare_digest(given, self._token):
            raise ServiceError(
                grpc.StatusCode.UNAUTHENTICATED,
                chassis_reason(errors_pb2.ERROR_REASON_APP_TOKEN_REFUSED),
                "the call does not carry the app's token (APP_API_TOKEN), so it does not come from its sidecar",
            )
