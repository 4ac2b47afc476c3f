"""A transaction of a state store, and what its failure means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dapr.proto import api_v1

from apibase.clients._state_wire import wire
from apibase.clients.state_items import Delete, Upsert
from apibase.errors import Conflict, NotSupported, SidecarError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dapr.proto import common_v1

    from apibase.clients._state_dialect import Dialect
    from apibase.clients._transport import Sidecar
    from apibase.clients.state_items import Operation


async def transact(
    sidecar: Sidecar,
    dialect: Dialect,
    operations: Sequence[Operation],
    metadata: Mapping[str, str],
    *,
    allow_partial: bool,
) -> None:
    """Send a transaction. Raises `Conflict` where it failed because somebody else was first, `NotSupported` before anything is sent."""
    component = dialect.component
    dialect.need("TRANSACTIONAL", "transactions")
    if not component.rolls_back and not allow_partial:
        why = "what it had written by then would stay; allow_partial=True says that this may be"
        raise NotSupported(component.name, "a transaction that undoes itself when it fails", why)
    # By key, and so in one order for all: two transactions that want the same rows wait for each other, but not both for the other.
    in_order = sorted(operations, key=lambda each: each.key)
    sent = [wire(each, dialect, in_transaction=True) for each in in_order]
    request = api_v1.ExecuteStateTransactionRequest(
        storeName=component.name,
        operations=[
            api_v1.TransactionalStateOperation(operationType=_TYPES[type(operation)], request=item)
            for operation, item in zip(in_order, sent, strict=True)
        ],
        metadata=dict(metadata),
    )
    try:
        await sidecar.call(lambda: sidecar.stub.ExecuteStateTransaction(request), component=component.name)
    except SidecarError as error:
        key = dialect.transaction_conflict(error)
        if key is None:
            raise
        conditional = [item for operation, item in zip(in_order, sent, strict=True) if operation.conditional]
        raise Conflict(key or await _changed(sidecar, component.name, conditional), component=component.name) from error


async def _changed(sidecar: Sidecar, store: str, conditional: Sequence[common_v1.StateItem]) -> str:
    """Return the key whose item is another one than the transaction asked for; empty where none is (any more), or none can be told."""
    keys = list(dict.fromkeys(item.key for item in conditional))
    if len(keys) == 1:
        return keys[0]
    request = api_v1.GetBulkStateRequest(store_name=store, keys=keys)
    try:
        answer = await sidecar.call(lambda: sidecar.stub.GetBulkState(request), component=store, safe=True)
    except SidecarError:
        return ""
    etags = {each.key: each.etag for each in answer.items if not each.error}
    for item in conditional:
        wanted = item.etag.value if item.HasField("etag") else ""
        if etags.get(item.key, "") != wanted:
            return str(item.key)
    return ""


_TYPES: dict[type[Operation], str] = {Upsert: "upsert", Delete: "delete"}
