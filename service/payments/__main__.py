"""Run the payments service: `python -m payments`."""

from apibase import run
from payments.bootstrap import build

if __name__ == "__main__":
    run(build)
