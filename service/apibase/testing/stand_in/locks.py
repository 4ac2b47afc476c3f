"""Locks that expire by the stand-in's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto import api_v1

from apibase.testing.stand_in.api_errors import ApiError

if TYPE_CHECKING:
    from apibase.testing.stand_in.api import ApiCall, Operations
    from apibase.testing.stand_in.clock import Clock
    from apibase.testing.stand_in.registry import Registry

_Status = api_v1.UnlockResponse.Status


class LockApi:
    """Dapr's operations on locks."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._held: dict[tuple[str, str], tuple[str, float]] = {}

    @property
    def operations(self) -> Operations:
        """By the names of their rpcs."""
        return {"TryLockAlpha1": self._lock, "UnlockAlpha1": self._unlock}

    def owner(self, store_name: str, resource_id: str) -> str:
        """Return who holds a lock now; empty where nobody does."""
        owner, until = self._held.get((store_name, resource_id), ("", 0.0))
        return owner if until > self._clock.seconds else ""

    async def _lock(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401 - the API's messages
        if request.expiry_in_seconds <= 0:
            raise _refused(f"ExpiryInSeconds is not positive in lock store {request.store_name}")
        self._check(request)
        lock = request.store_name, request.resource_id
        if self.owner(*lock):
            return api_v1.TryLockResponse(success=False)
        self._held[lock] = request.lock_owner, self._clock.seconds + request.expiry_in_seconds
        return api_v1.TryLockResponse(success=True)

    async def _unlock(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401 - likewise
        self._check(request)
        lock = request.store_name, request.resource_id
        owner = self.owner(*lock)
        if not owner:
            return api_v1.UnlockResponse(status=_Status.LOCK_DOES_NOT_EXIST)
        if owner != request.lock_owner:
            return api_v1.UnlockResponse(status=_Status.LOCK_BELONGS_TO_OTHERS)
        del self._held[lock]
        return api_v1.UnlockResponse(status=_Status.SUCCESS)

    def _check(self, request: Any) -> None:  # noqa: ANN401 - either request
        found = self._registry.component(request.store_name, "lock")
        if found is None and not self._registry.of_block("lock"):
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "lock store is not configured")
        if not request.resource_id:
            raise _refused(f"ResourceId is empty in lock store {request.store_name}")
        if not request.lock_owner:
            raise _refused(f"LockOwner is empty in lock store {request.store_name}")
        if found is None:
            raise _refused(f"lock store {request.store_name} not found")


def _refused(message: str) -> ApiError:
    return ApiError(grpc.StatusCode.INVALID_ARGUMENT, message)
