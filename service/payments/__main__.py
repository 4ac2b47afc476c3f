"""Run the payments service: `python -m payments`."""

from payments.bootstrap import build

if __name__ == "__main__":
    build().run()
