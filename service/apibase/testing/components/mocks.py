"""The mock components of one name: one of each kind, with the faults and the record of calls that they share."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Self

from apibase.testing.components.bindings import MockInputBinding, MockOutputBinding
from apibase.testing.components.pubsub import MockPubSub
from apibase.testing.components.secret_store import MockSecretStore
from apibase.testing.components.state_store import MockStateStore
from apibase.testing.faults import Faults

if TYPE_CHECKING:
    from types import TracebackType

    from apibase.testing.components.component import Call, MockComponent

VARIABLE = "DAPR_COMPONENTS_SOCKETS_FOLDER"


class MockComponents:
    """Component types `state.NAME`, `pubsub.NAME`, `bindings.NAME` and `secretstores.NAME`, while the context is open.

    They have to be there before daprd starts, which looks once. `folder` is where daprd looks for sockets: several, of
    different names, can share one; None for a folder of its own, removed at the end. `seed` is that of the faults.
    """

    def __init__(self, folder: Path | None = None, *, name: str = "mock", seed: int = 0) -> None:
        self._temporary = folder is None
        # Paths of sockets are short: not the folder that a long TMPDIR names, if there is /tmp.
        short = "/tmp" if Path("/tmp").is_dir() else None  # noqa: S108 - a folder of ours is made in it
        self.folder = Path(tempfile.mkdtemp(prefix="mocks-", dir=short)) if folder is None else folder.resolve()
        self.faults = Faults(seed)
        self.calls: list[Call] = []
        """Every call of daprd's, in order, with those that failed."""
        self.state = MockStateStore(self.folder, name, self.faults, self.calls)
        self.pubsub = MockPubSub(self.folder, name, self.faults, self.calls)
        self.input = MockInputBinding(self.folder, name, self.faults, self.calls)
        self.output = MockOutputBinding(self.folder, name, self.faults, self.calls)
        self.secrets = MockSecretStore(self.folder, name, self.faults, self.calls)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that daprd needs to find them."""
        return {VARIABLE: str(self.folder)}

    def count(self, operation: str, key: str = "*") -> int:
        """Return how often daprd called an operation, of a key; both are patterns, as those of faults."""
        return sum(
            fnmatchcase(call.operation, operation) and any(fnmatchcase(each, key) for each in call.keys or ("",))
            for call in self.calls
        )

    async def start(self) -> None:
        """Be there, all of them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        await asyncio.gather(*(each.start() for each in self._all()))

    async def stop(self) -> None:
        """Be gone, all of them; what they had they have again after `start`."""
        await asyncio.gather(*(each.stop() for each in self._all()))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[MockComponent]:
        return [self.state, self.pubsub, self.input, self.output, self.secrets]
