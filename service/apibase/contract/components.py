"""Whether the sidecar has the components that the contracts name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dapr.proto import api_service_v1, api_v1

from apibase.clients._transport import sidecar_call
from apibase.contract import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from apibase.clients import Sidecar
    from apibase.routes import RouteTable, TopicRoute

_STORE = "APIBASE_DEDUPLICATION_STORE"
_ETAG = "ETAG"


def check_components(routes: RouteTable, loaded: Mapping[str, str]) -> None:
    """Raise `ContractError` for each listener whose component the sidecar has not loaded; `loaded` is name to type.

    daprd says nothing of that: it would leave the listener without events for ever.
    """
    missing = [
        *_missing(((route.pubsub_name, route.place or route.name) for route in routes.topics), "pubsub", loaded),
        *_missing(((name, route.place or route.name) for name, route in routes.bindings.items()), "bindings", loaded),
    ]
    if missing:
        raise ContractError("; ".join(missing))


def deduplicates(routes: RouteTable, store_name: str) -> bool:
    """Whether a contract asks for repetitions to be recognised; `ContractError` where it does and no store is named."""
    asking = _asking(routes)
    if asking is not None and not store_name:
        raise ContractError(
            f"{_place(asking)} has deduplicate_for, and no setting says where handled events are remembered; "
            f"name a state store component by {_STORE}"
        )
    return asking is not None


async def check_deduplication_store(sidecar: Sidecar, routes: RouteTable, store_name: str) -> None:
    """Raise `ContractError` where the store is needed and the sidecar has not loaded it, or it has no etags.

    Without etags every claim would be granted, to two replicas at once too.
    """
    asking = _asking(routes)
    if asking is None:
        return
    stub = api_service_v1.DaprStub(sidecar.channel())  # type: ignore[no-untyped-call]
    metadata = await sidecar_call(stub.GetMetadata(api_v1.GetMetadataRequest()), component=store_name)
    stores = {each.name: each for each in metadata.registered_components if each.type.startswith("state.")}
    needs = f"{_place(asking)} has deduplicate_for and needs state store {store_name!r} ({_STORE})"
    if store_name not in stores:
        raise ContractError(
            f"{needs}, which the sidecar has not loaded (it has {', '.join(sorted(stores)) or 'none'}); "
            "check the component's name, scopes and folder"
        )
    if _ETAG not in stores[store_name].capabilities:
        raise ContractError(f"{needs}, which has no etags ({stores[store_name].type}); name a store of another type")


def _asking(routes: RouteTable) -> TopicRoute | None:
    return next((route for route in routes.topics if route.deduplication is not None), None)


def _place(route: TopicRoute) -> str:
    return route.place or route.name


def _missing(wanted: Iterable[tuple[str, str]], kind: str, loaded: Mapping[str, str]) -> list[str]:
    there = sorted(name for name, type_ in loaded.items() if type_.startswith(f"{kind}."))
    what = "pub/sub component" if kind == "pubsub" else "binding"
    return [
        f"{place} listens to {what} {name!r}, which the sidecar has not loaded "
        f"(it has {', '.join(there) or 'none'}); check the component's name, scopes and folder"
        for name, place in wanted
        if name not in there
    ]
