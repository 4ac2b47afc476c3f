"""Dapr's resource files, read as daprd reads them: components, subscriptions, and how often an event is tried again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import yaml
from loguru import logger

from apibase.testing.stand_in.component import Component
from apibase.testing.stand_in.durations import seconds_of
from apibase.testing.stand_in.secrets import SecretStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_SUFFIXES = {".yaml", ".yml"}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FILES = 256
_KINDS_READ = {"Component", "Subscription", "Resiliency"}
_SECRET_STORES = ("secretstores.local.file", "secretstores.local.env")


class ResourceError(ValueError):
    """A resource file can't be read; the message names it."""


@dataclass(frozen=True)
class Retries:
    """A retry policy: how often an event comes again, and after how many seconds. `most` below 0 is for ever."""

    most: int
    first: float
    factor: float = 1.0
    longest: float = 60.0

    def delay(self, turn: int) -> float:
        """Return the seconds before the try that follows try number `turn`, counted from 0."""
        return float(min(self.first * self.factor**turn, max(self.longest, self.first)))


@dataclass(frozen=True)
class DeclaredSubscription:
    """A Subscription resource. `rules` are pairs of a CEL expression, empty for the default, and a path."""

    name: str
    pubsub_name: str
    topic: str
    rules: tuple[tuple[str, str], ...]
    dead_letter_topic: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    bulk: tuple[int, int] | None = None
    """The most events of a batch, and the milliseconds that they are waited for."""


@dataclass(frozen=True)
class Resources:
    """What the resource files of an app say."""

    components: tuple[Component, ...] = ()
    subscriptions: tuple[DeclaredSubscription, ...] = ()
    inbound_retries: Mapping[str, Retries] = field(default_factory=dict)
    """By the component's name."""
    resiliencies: tuple[str, ...] = ()
    """The names of the Resiliency resources."""


def read_resources(folders: Iterable[Path], app_id: str, env: Mapping[str, str] | None = None) -> Resources:
    """Read the YAML files of folders, as daprd not of those below; `env` stands for the environment where it is given.

    Raises `ResourceError`.
    """
    documents = [each for folder in folders for each in _documents(folder)]
    mine = [(file, document) for file, document in documents if _concerns(document, app_id)]
    resiliency = [document for _, document in mine if document["kind"] == "Resiliency"]
    retries: dict[str, Retries] = {}
    for document in resiliency:
        retries |= _inbound_retries(document.get("spec") or {})
    return Resources(
        _components(mine, os.environ if env is None else env),
        tuple(_subscription(file, document) for file, document in mine if document["kind"] == "Subscription"),
        retries,
        tuple(str(document["metadata"]["name"]) for document in resiliency),
    )


def _documents(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    except OSError as error:
        message = f"there is no folder {str(folder)!r} of Dapr's resource files (--resources-path)"
        raise ResourceError(message) from error
    for file in files:
        try:
            status = file.stat()
            documents = _parsed(file, status.st_mtime_ns, status.st_size)
        except (OSError, yaml.YAMLError) as error:
            raise ResourceError(f"{file}: {error}") from error
        for document in documents:
            if isinstance(document, dict) and document.get("kind") in _KINDS_READ:
                if not (document.get("metadata") or {}).get("name"):
                    raise ResourceError(f"{file}: metadata.name: a {document['kind']} needs a name")
                yield file, document


@lru_cache(maxsize=_FILES)
def _parsed(file: Path, _changed: int, _size: int) -> tuple[Any, ...]:
    """Return a file's documents. They are kept while it stays as it is: every test reads them anew."""
    return tuple(yaml.load_all(file.read_text(encoding="utf-8"), Loader=_LOADER))


def _concerns(document: dict[str, Any], app_id: str) -> bool:
    scopes = document.get("scopes") or []
    return not scopes or app_id in scopes


def _components(documents: list[tuple[Path, dict[str, Any]]], env: Mapping[str, str]) -> tuple[Component, ...]:
    found = [
        (document, _component(file, document, env)) for file, document in documents if document["kind"] == "Component"
    ]
    stores = {each.name: SecretStore(each, env) for _, each in found if each.type in _SECRET_STORES}
    return tuple(_with_secrets(document, component, stores) for document, component in found)


def _component(file: Path, document: dict[str, Any], env: Mapping[str, str]) -> Component:
    spec = document.get("spec") or {}
    name = str(document["metadata"]["name"])
    if not isinstance(kind := spec.get("type"), str) or "." not in kind:
        raise ResourceError(f"{file}: spec.type: component {name!r} needs a type, such as state.redis")
    metadata: dict[str, str] = {}
    for item in spec.get("metadata") or []:
        if "envRef" in item:
            metadata[item["name"]] = env.get(str(item["envRef"]), "")
        elif "value" in item:
            metadata[item["name"]] = _text(item["value"])
    scopes = frozenset(map(str, document.get("scopes") or ()))
    return Component(name, kind, str(spec.get("version") or "v1"), metadata, scopes)


def _with_secrets(document: dict[str, Any], component: Component, stores: Mapping[str, SecretStore]) -> Component:
    """Return a component with the fields that its file leaves to a secret store."""
    store = stores.get(str((document.get("auth") or {}).get("secretStore") or ""))
    metadata = dict(component.metadata)
    for item in (document.get("spec") or {}).get("metadata") or []:
        reference = item.get("secretKeyRef")
        if reference and store is not None:
            values = store.get(str(reference["name"])) or {}
            metadata[item["name"]] = values.get(str(reference.get("key") or reference["name"]), "")
    return replace(component, metadata=metadata)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _subscription(file: Path, document: dict[str, Any]) -> DeclaredSubscription:
    spec = document.get("spec") or {}
    if not spec.get("pubsubname") or not spec.get("topic"):
        raise ResourceError(f"{file}: a Subscription needs spec.pubsubname and spec.topic")
    routes = spec.get("routes") or {}
    rules = [(str(rule.get("match") or ""), str(rule.get("path") or "")) for rule in routes.get("rules") or []]
    default = routes.get("default") or spec.get("route")
    if default or not rules:
        rules.append(("", str(default or "")))
    bulk = spec.get("bulkSubscribe") or {}
    return DeclaredSubscription(
        str(document["metadata"]["name"]),
        str(spec["pubsubname"]),
        str(spec["topic"]),
        tuple(rules),
        str(spec.get("deadLetterTopic") or ""),
        {str(key): _text(value) for key, value in (spec.get("metadata") or {}).items()},
        (int(bulk.get("maxMessagesCount") or 0), int(bulk.get("maxAwaitDurationMs") or 0))
        if bulk.get("enabled")
        else None,
    )


def _inbound_retries(spec: dict[str, Any]) -> dict[str, Retries]:
    """Return the retries of inbound targets. Timeouts and breakers are the real daprd's to show, and are passed over."""
    policies = {
        name: _retries(policy or {}) for name, policy in ((spec.get("policies") or {}).get("retries") or {}).items()
    }
    found: dict[str, Retries] = {}
    for name, target in ((spec.get("targets") or {}).get("components") or {}).items():
        inbound = (target or {}).get("inbound") or {}
        if set(inbound) - {"retry"}:
            logger.debug(
                "the stand-in sidecar follows the inbound retry of {!r}, and nothing else of its policies", name
            )
        if inbound.get("retry") in policies:
            found[name] = policies[inbound["retry"]]
    return found


def _retries(policy: dict[str, Any]) -> Retries:
    most = int(policy.get("maxRetries", -1))
    if policy.get("policy") == "exponential":
        longest = seconds_of(str(policy.get("maxInterval") or "60s"))
        return Retries(most, seconds_of(str(policy.get("initialInterval") or "500ms")), 1.5, longest)
    wait = seconds_of(str(policy.get("duration") or "5s"))
    return Retries(most, wait, 1.0, wait)
