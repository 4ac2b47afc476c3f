"""Run the orders service: `python -m orders`."""

from apibase import run
from orders.bootstrap import build

if __name__ == "__main__":
    run(build)
