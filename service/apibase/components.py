"""Whether the sidecar has the components that the contracts name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apibase.contract import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from apibase.routes import RouteTable


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


def _missing(wanted: Iterable[tuple[str, str]], kind: str, loaded: Mapping[str, str]) -> list[str]:
    there = sorted(name for name, type_ in loaded.items() if type_.startswith(f"{kind}."))
    what = "pub/sub component" if kind == "pubsub" else "binding"
    return [
        f"{place} listens to {what} {name!r}, which the sidecar has not loaded "
        f"(it has {', '.join(there) or 'none'}); check the component's name, scopes and folder"
        for name, place in wanted
        if name not in there
    ]
