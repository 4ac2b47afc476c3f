"""Who may call an rpc: what the contract says (`callers`, `method_callers`), held against what the sidecars say of a call.

The caller's daprd appends its app id to `dapr-caller-app-id`, so what a caller wrote there itself stands before it: the last
value counts, and values that differ are refused. A call to the app's own id gets no such header, nor does one that comes
straight to the app's port: where a contract names callers, both are refused.

daprd relays whatever method an app names, Dapr's own callbacks too. What only the app's own sidecar brings (events, bindings,
jobs) is not taken from another app.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from loguru import logger

from apibase.contract import allowed_callers
from apibase.contract.reasons import chassis_reason
from apibase.errors import ServiceError
from apibase.middleware.base import Middleware
from apibase.middleware.call import DELIVERIES, RPCS, Kind
from apibase.middleware.hooks import Hooks
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from google.protobuf.descriptor import MethodDescriptor

    from apibase.middleware.call import Call, Target

CALLER_HEADER = "dapr-caller-app-id"
_OF_RELAYED_CALLS = frozenset({CALLER_HEADER, "dapr-callee-app-id"})
_TOLD_LENGTH = 100  # an app id has fewer letters; what somebody wrote instead must fit into a header of the answer


def named_callers(metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[str, ...]:
    """Return the app ids that a call's metadata name as its caller, as they came: the last one is daprd's word."""
    return tuple(value for key, value in metadata or () if key == CALLER_HEADER and isinstance(value, str))


def is_relayed(headers: Mapping[str, str]) -> bool:
    """Whether a call is another app's, which the sidecars relayed, and not the own sidecar's."""
    return not _OF_RELAYED_CALLS.isdisjoint(headers)


def forged(headers: Mapping[str, str], what: str) -> ServiceError:
    """Return what an app is told that calls another like its sidecar, with `what` it brought."""
    caller = headers.get(CALLER_HEADER, "")[:_TOLD_LENGTH]
    return ServiceError(
        grpc.StatusCode.PERMISSION_DENIED,
        chassis_reason(errors_pb2.ERROR_REASON_CALLER_NOT_ALLOWED),
        f"another app called with {what}, which only this app's own sidecar brings",
        metadata={"caller": caller},
    )


class Callers(Middleware):
    """Refuses callers that the contract does not name, and what only the own sidecar brings when another app's relays it."""

    kinds = RPCS | DELIVERIES
    built_in = True

    def hooks(self, target: Target) -> Hooks | None:
        """Check each call before the rest of the chain, where a contract names callers, and each delivery."""
        if target.kind in DELIVERIES:
            return None if target.own else _from_own_sidecar(target)
        assert target.descriptor is not None  # noqa: S101 - an rpc has one
        check = CallerCheck(target.descriptor)
        if not check.needed:
            return None
        may_call = check.may_call

        def refused(call: Call) -> bool:
            if call.headers.get(CALLER_HEADER) in may_call and not call.repeats_headers:
                return False
            if call.repeats_headers:
                callers = named_callers(call.metadata)
            else:
                caller = call.headers.get(CALLER_HEADER)
                callers = (caller,) if caller is not None else ()
            error = check.refusal(callers)
            if error is None:
                return False
            call.refuse(error)
            return True

        return Hooks(before=refused)


def _from_own_sidecar(target: Target) -> Hooks:
    def refused(call: Call) -> bool:
        if not is_relayed(call.headers):
            return False
        error = forged(call.headers, f"{target.kind} {call.event.source!r}" if call.event else str(target.kind))
        event_id = {"event_id": call.event.id} if call.event and call.event.id else {}
        logger.bind(caller=call.headers.get(CALLER_HEADER, ""), **event_id).warning("{}", error.message)
        # For an event a verdict, not an error: a publisher may have made a broker's headers look so, and daprd then buries it.
        call.refuse(error, "DROP" if target.kind is Kind.EVENT else "")
        return True

    return Hooks(before=refused)


class CallerCheck:
    """The check of one method. Raises `ContractError` where its contract contradicts itself."""

    def __init__(self, method: MethodDescriptor) -> None:
        self._method = method.full_name
        self._allowed = allowed_callers(method)

    @property
    def needed(self) -> bool:
        """Whether the contract names callers."""
        return self._allowed is not None

    @property
    def may_call(self) -> frozenset[str]:
        """The apps that the contract names."""
        return frozenset(self._allowed or ())

    def refusal(self, callers: Sequence[str]) -> ServiceError | None:
        """Return what is told unless `callers`, as `named_callers` gives them, is an app that may call; which may is not told."""
        if self._allowed is None:
            return None
        caller = callers[-1] if callers else ""
        if not caller:
            problem = f"the call does not come from another app's sidecar, and {self._method} is for some apps only"
        elif len(set(callers)) > 1:
            problem = f"the call names callers that differ, so nobody's word is taken for who calls {self._method}"
        elif caller not in self._allowed:
            problem = f"{caller[:_TOLD_LENGTH]} may not call {self._method}"
        else:
            return None
        return ServiceError(
            grpc.StatusCode.PERMISSION_DENIED,
            chassis_reason(errors_pb2.ERROR_REASON_CALLER_NOT_ALLOWED),
            problem,
            metadata={"caller": caller[:_TOLD_LENGTH], "method": self._method},
        )
