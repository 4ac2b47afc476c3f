"""The pytest plugin: `sidecar`, a stand-in for each test, and `app_client`, the service under test beside it.

Nothing is loaded before a test asks for one of them: a project that has this package and does not use it pays for nothing.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from apibase.app import App
    from apibase.testing.app_client import AppClient
    from apibase.testing.stand_in.stand_in import StandIn

_MARKER = (
    "sidecar(app_id, resources, components, any_component, http, env, api_token, app_token, clock_runs, seed): "
    "how the stand-in sidecar of the test is; the nearest marker that says something decides"
)
_OPTIONS = frozenset(
    {
        "app_id",
        "resources",
        "components",
        "any_component",
        "http",
        "env",
        "api_token",
        "app_token",
        "clock_runs",
        "seed",
    }
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the project's defaults from pytest's configuration."""
    parser.addini("apibase_app_id", "app id of the stand-in sidecar's app", default="app")
    parser.addini("apibase_resources", "folders of Dapr resource files for the stand-in sidecar", "paths", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER)


def _without_asyncio(function: Callable[..., AsyncIterator[Any]]) -> Callable[[], None]:
    """Return a fixture of the same name that says what is missing."""

    @functools.wraps(function, assigned=("__name__", "__doc__"))
    def missing() -> None:
        raise pytest.UsageError(
            f"the fixture {function.__name__!r} needs pytest-asyncio, or anyio: pip install pytest-asyncio"
        )

    del missing.__wrapped__
    return missing


def _async_fixture(function: Callable[..., AsyncIterator[Any]]) -> Any:  # noqa: ANN401 - pytest's own
    if find_spec("pytest_asyncio") is None:
        return pytest.fixture(function if find_spec("anyio") is not None else _without_asyncio(function))
    import pytest_asyncio  # noqa: PLC0415 - it is there

    return pytest_asyncio.fixture(function)


@_async_fixture
async def sidecar(request: pytest.FixtureRequest) -> AsyncIterator[StandIn]:
    """Return a sidecar in this process and in memory, for this test alone. Its clock stands still until it is advanced."""
    from apibase.testing.stand_in.stand_in import StandIn, component  # noqa: PLC0415 - only tests that use it load it

    given = _options(request)
    declared = [component(name, kind) for name, kind in dict(given.pop("components", {})).items()]
    http_port = 0 if given.pop("http", False) else None
    async with StandIn(components=declared, http_port=http_port, **given) as running:
        yield running


@_async_fixture
async def app_client(sidecar: StandIn, app: App) -> AsyncIterator[AppClient]:
    """Return the app of the project's own fixture `app`, running beside the sidecar, ready, with everything it listens to."""
    from apibase.testing.app_client import AppClient  # noqa: PLC0415 - likewise

    async with AppClient(app, sidecar) as running:
        yield running


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    config = request.config
    options: dict[str, Any] = {
        "app_id": config.getini("apibase_app_id"),
        "resources": config.getini("apibase_resources"),
    }
    for marker in reversed(list(request.node.iter_markers("sidecar"))):
        unknown = set(marker.kwargs) - _OPTIONS
        if marker.args or unknown:
            told = ", ".join([*map(repr, marker.args), *sorted(unknown)])
            raise pytest.UsageError(f"the marker sidecar takes {', '.join(sorted(_OPTIONS))}, not {told}")
        options.update(marker.kwargs)
    resources = options["resources"]
    folders = [resources] if isinstance(resources, (str, Path)) else list(resources)
    options["resources"] = [config.rootpath / folder for folder in folders]
    return options
