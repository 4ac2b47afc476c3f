"""Fail when a contract breaks those who have its last released form: `buf breaking` against the newest version tag.

Until there is a release there is nothing to compare with.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def git(*args: str) -> str:
    """Return what git prints, or an empty string where it fails."""
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def main() -> int:
    """Compare the contracts with the last released ones."""
    tag = git("describe", "--tags", "--match", "v*", "--abbrev=0")
    if not tag:
        print("buf breaking: no release yet, nothing to compare with")
        return 0
    against = f".git#tag={tag},subdir=protos"
    buf = Path(sys.executable).parent / "buf"
    return subprocess.run([str(buf), "breaking", "protos", "--against", against], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
