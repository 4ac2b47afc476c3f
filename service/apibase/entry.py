"""The entry of a service's process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from pydantic import ValidationError

from apibase.contract import ContractError

if TYPE_CHECKING:
    from collections.abc import Callable

    from apibase.app import App

_MISCONFIGURED = 2


def run(build: Callable[[], App]) -> NoReturn:
    """Build an app and run it until a signal ends it; the process exits with its code.

    A wrong setting or a contradiction in the contracts ends it with exit code 2 and one line for each, no traceback:
    whoever started it is to mend the configuration, not the code.
    """
    try:
        app = build()
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False)]
        print("\n".join(f"wrong setting {line}" for line in lines), file=sys.stderr)  # noqa: T201 - logging isn't set up
        sys.exit(_MISCONFIGURED)
    except ContractError as error:
        print(f"wrong contract: {error}", file=sys.stderr)  # noqa: T201 - logging isn't set up
        sys.exit(_MISCONFIGURED)
    app.run()
    raise AssertionError("App.run always exits")
