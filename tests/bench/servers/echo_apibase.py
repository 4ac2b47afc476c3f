"""The echo service on `apibase.App`, as its settings say: `python echo_apibase.py PORT`."""

import sys

from echo_handlers import AsyncioEcho

from apibase import App

app = App()
app.add_servicer(AsyncioEcho())
app.run(int(sys.argv[1]), "127.0.0.1")
