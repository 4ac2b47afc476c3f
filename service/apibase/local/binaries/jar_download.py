"""Downloads jars with `jgo`, a Maven client in Python, whose own defaults say from where.

Run as a script by an isolated interpreter, never imported: jgo lies in the cache, not in our environment. Arguments: the
folder of the installed wheels, the folder for the jars, and the coordinates, `group:artifact:version` or
`group:artifact:version:classifier`.
"""

import importlib
import sys
from pathlib import Path


def main() -> None:
    """Leave every jar in the folder; what fails is a traceback on standard error."""
    wheels, target, *coordinates = sys.argv[1:]
    sys.path.insert(0, wheels)
    maven = importlib.import_module("jgo.maven")
    folder = Path(target)
    context = maven.MavenContext(repo_cache=folder / "repository", timeout=60)
    for coordinate in coordinates:
        group, artifact, version, *classifier = coordinate.split(":")
        jar: Path = context.project(group, artifact).at_version(version).artifact(*classifier).resolve()
        jar.rename(folder / jar.name)


if __name__ == "__main__":
    main()
