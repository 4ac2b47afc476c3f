"""Write docs/configuration.md from the settings classes; with --check, fail when it would differ."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import AliasChoices, SecretStr
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from apibase.settings import Settings
from orders.settings import OrderSettings
from payments.settings import PaymentSettings

TARGET = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

HEAD = """# Configuration

Made by `make gen` from the settings classes. Everything is read from the environment when a process starts; a wrong value stops it with a
message that names the variable.

"""

MACHINE = """## The command line and the tests

| variable | meaning |
| --- | --- |
| `APIBASE_CACHE` | Folder of built and fetched programs (default: `apibase` in the user's cache folder). |
| `APIBASE_DAPR_BIN` | Folder with `daprd`, `placement`, `scheduler` (`sentry` too, for mTLS) to use instead of building them. |
| `APIBASE_POSTGRES_BIN` | Folder with PostgreSQL's programs. |
| `APIBASE_REDIS_SERVER` | The `redis-server` program. |
| `APIBASE_KAFKA_HOME` | Folder of a Kafka 4 installation, whose `libs` are used instead of downloading them. |
| `APIBASE_VAULT` | The `vault` program, which the full tests use instead of building one. |
| `JAVA_HOME` | The Java that runs Kafka, if it is 17 or newer. |
| `APIBASE_DAPR_SERIES` | The series of Dapr that `apibase up` and `apibase demo` run (default `1.18`; `1.14` can be had too). |
| `POSTGRES_CONNECTION`, `REDIS_HOST` | Backends of your own for the reference system; where they are set, `apibase up` starts none. |

What the project tells `apibase` stands in `[tool.apibase]` of its `pyproject.toml`:

| key | meaning |
| --- | --- |
| `topology` | The multi-app run file (default `compose/dapr.yaml`). |
| `descriptors` | The descriptor set that `apibase gen` wrote (default `generated/descriptors.binpb`). |
| `demo` | The job of `apibase demo`: `module:function`. |
"""


def table(title: str, settings: type[BaseSettings]) -> str:
    """Return a section with a row for each field."""
    rows = [f"## {title}", "", "| variable | default | meaning |", "| --- | --- | --- |"]
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        names = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [str(alias or name)]
        default = (
            ""
            if field.default in (None, PydanticUndefined) or isinstance(field.default, SecretStr)
            else f"`{field.default}`"
        )
        rows.append(f"| {', '.join(f'`{each}`' for each in names)} | {default} | {field.description} |")
    return "\n".join(rows) + "\n\n"


def main() -> int:
    """Write the page, or compare it."""
    text = (
        HEAD
        + table("A service", Settings)
        + table("The orders service", OrderSettings)
        + table("The payments service", PaymentSettings)
        + MACHINE
    )
    if "--check" in sys.argv:
        if TARGET.read_text(encoding="utf-8") != text:
            print(f"{TARGET.name} is not what the settings say; run `make gen`", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
