"""A method that waits 20 ms, on `apibase.App`: `threaded.py` after the migration. `python asynchronous.py PORT`."""

import asyncio
import sys

from apibase import App, InvokeMethodRequest, InvokeMethodResponse

app = App()


@app.method("wait")
async def wait(request: InvokeMethodRequest) -> InvokeMethodResponse:
    await asyncio.sleep(0.02)
    return InvokeMethodResponse(request.data, request.content_type)


app.run(int(sys.argv[1]), "127.0.0.1")
