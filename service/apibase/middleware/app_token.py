"""The token by which an app knows that a call comes from its sidecar (`APP_API_TOKEN`)."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import grpc

from apibase.contract.reasons import chassis_reason
from apibase.errors import ServiceError
from apibase.middleware.base import Middleware
from apibase.middleware.hooks import Hooks
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from pydantic import SecretStr

    from apibase.middleware.call import Call, Target


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

    def hooks(self, target: Target) -> Hooks | None:
        """Check it before the rest of the chain, where there is one."""
        if not self._token or target.own:
            return None
        token, same = self._token, hmac.compare_digest

        def refused(call: Call) -> bool:
            if same(call.token.encode(), token):
                return False
            error = self.refusal(call.token)
            assert error is not None  # noqa: S101 - for the type checker
            call.refuse(error)
            return True

        return Hooks(before=refused)
