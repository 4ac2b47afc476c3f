"""Methods of the sidecar's API that were renamed when they became stable, called by the name that the sidecar knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import grpc

from apibase.errors import NotSupported, SidecarError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    from apibase.clients._transport import Sidecar

_only_older: WeakKeyDictionary[Sidecar, set[str]] = WeakKeyDictionary()
"""The methods that a sidecar was found to know by their older name only."""


def is_unknown_method(error: SidecarError) -> bool:
    """Whether the sidecar does not know the method: Dapr 1.14 takes it for another app's, and the SDK does not see that."""
    return error.code is grpc.StatusCode.UNIMPLEMENTED or (
        error.code is grpc.StatusCode.UNKNOWN and "dapr-app-id not found" in error.message
    )


async def call_method(
    sidecar: Sidecar,
    name: str,
    request: Message,
    *,
    component: str,
    feature: str,
    safe: bool = False,
    before_older: Callable[[], Awaitable[None]] | None = None,
) -> Any:  # noqa: ANN401 - the method's response
    """Call a method by its stable name, or by `…Alpha1` where the sidecar is too old for that, which is found out once.

    `before_older` runs before a call by the older name: it may refuse what the older method passes over. Raises
    `NotSupported(component, feature)` where the sidecar knows neither name, and what `Sidecar.call` raises.
    """
    older = _only_older.setdefault(sidecar, set())
    if name not in older:
        method = getattr(sidecar.stub, name)
        try:
            return await sidecar.call(lambda: method(request), component=component, safe=safe)
        except SidecarError as error:
            if not is_unknown_method(error):
                raise
    if before_older is not None:
        await before_older()
    method = getattr(sidecar.stub, f"{name}Alpha1")
    try:
        answer = await sidecar.call(lambda: method(request), component=component, safe=safe)
    except SidecarError as error:
        if is_unknown_method(error):
            raise NotSupported(component, feature, f"the sidecar has no {name}") from error
        raise
    older.add(name)
    return answer
