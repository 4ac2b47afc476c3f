"""Words that messages share."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def genitive(name: str) -> str:
    """`payments'`, `storefront's`."""
    return f"{name}'" if name.endswith("s") else f"{name}'s"


def apibase() -> str:
    """How this person's shell starts the command line: by its name, or, where PATH lacks it, as it was started now."""
    used = sys.argv[0]
    return "apibase" if shutil.which("apibase") or Path(used).name != "apibase" else shlex.quote(used)
