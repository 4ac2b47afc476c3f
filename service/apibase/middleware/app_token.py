"""The token by which an app knows that a call comes from its sidecar (`APP_API_TOKEN`)."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import grpc

from apibase.contract.reasons import chassis_reason
from apibase.errors import ServiceError
from apibase.middleware.base import Middleware, nothing
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pydantic import SecretStr

    from apibase.middleware.call import Call, Proceed, Target


class AppToken(Middleware):
    """Checks the token on calls that daprd makes with one: rpcs, invoked methods, events, bindings and jobs.

    daprd sends none with health probes and with the questions for subscriptions and bindings, so those are not checked; nor
    is what comes down a stream that the app itself has opened.
    """

    built_in = True

    def __init__(self, token: SecretStr | None) -> None:
        self._token = token.get_secret_value().encode() if token is not None else b""

    def refusal(self, given: str) -> ServiceError | None:
        """Return what a call is told that carries any other than the token; comparing takes the same time for every wrong one."""
        if not self._token or hmac.compare_digest(given.encode(), self._token):
            return None
        return ServiceError(
            grpc.StatusCode.UNAUTHENTICATED,
            chassis_reason(errors_pb2.ERROR_REASON_APP_TOKEN_REFUSED),
            "the call does not carry the app's token (APP_API_TOKEN), so it does not come from its sidecar",
        )

    def wrap(self, target: Target, proceed: Proceed) -> Proceed:
        """Check it before the rest of the chain, where there is one."""
        if not self._token or target.own:
            return proceed

        def checked(call: Call) -> Awaitable[object]:
            error = self.refusal(call.token)
            if error is not None:
                call.refuse(error)
                return nothing()
            return proceed(call)

        return checked
