"""Run the orders service: `python -m orders`."""

from orders.bootstrap import build

if __name__ == "__main__":
    build().run()
