"""A component, as a resource file or a test declares it, and what daprd says that its type can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATE = ("ETAG", "TRANSACTIONAL", "TTL")
_CAPABILITIES = {
    ("state.postgresql", "v1"): (*_STATE, "KEYS_LIKE", "QUERY_API", "ACTOR"),
    ("state.postgresql", "v2"): (*_STATE, "KEYS_LIKE", "ACTOR"),
    ("state.redis", "v1"): (*_STATE, "KEYS_LIKE", "ACTOR"),
    ("state.sqlite", "v1"): (*_STATE, "KEYS_LIKE", "ACTOR"),
    ("state.in-memory", "v1"): (*_STATE, "DELETE_WITH_PREFIX", "KEYS_LIKE", "ACTOR"),
}
_INPUT_ONLY = frozenset({"bindings.cron", "bindings.rethinkdb.statechange", "bindings.kubernetes", "bindings.dingtalk"})
_BOTH_WAYS = frozenset(
    {
        "bindings.kafka", "bindings.rabbitmq", "bindings.mqtt3", "bindings.redis", "bindings.aws.sqs", "bindings.aws.kinesis",
        "bindings.azure.eventhubs", "bindings.azure.servicebusqueues", "bindings.azure.storagequeues", "bindings.gcp.pubsub",
        "bindings.azure.eventgrid",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Component:
    """A component: its name, Dapr's type (`state.redis`), its version, and the fields of its `spec.metadata`.

    `scopes` are the app ids that may use it; none: all.
    """

    name: str
    type: str
    version: str = "v1"
    metadata: Mapping[str, str] = field(default_factory=dict)
    scopes: frozenset[str] = frozenset()

    @property
    def block(self) -> str:
        """The building block: `state`, `pubsub`, `bindings`, `secretstores`, `configuration`, `lock` or another of Dapr's."""
        return self.type.partition(".")[0]

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What daprd's metadata say that it can do."""
        if self.block == "bindings":
            return tuple(
                name for name, it_is in (("INPUT_BINDING", self.is_input), ("OUTPUT_BINDING", self.is_output)) if it_is
            )
        return _CAPABILITIES.get((self.type, self.version), _STATE if self.block == "state" else ())

    @property
    def is_input(self) -> bool:
        """Whether it is a binding that brings events."""
        given = self.metadata.get("direction", "")
        if given:
            return "input" in given
        return self.block == "bindings" and (self.type in _INPUT_ONLY or self.type in _BOTH_WAYS)

    @property
    def is_output(self) -> bool:
        """Whether it is a binding that takes what is sent."""
        return self.block == "bindings" and self.type not in _INPUT_ONLY

    def loaded_by(self, app_id: str) -> bool:
        """Whether daprd loads it for this app."""
        return not self.scopes or app_id in self.scopes

    def option(self, name: str, default: str = "") -> str:
        """Return a field of its metadata; as in Dapr, in whatever case it is written."""
        wanted = name.lower()
        return next((value for key, value in self.metadata.items() if key.lower() == wanted), default)
