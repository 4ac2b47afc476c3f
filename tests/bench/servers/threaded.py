"""A method that waits 20 ms, on the SDK's `dapr.ext.grpc.App`: `python threaded.py PORT`."""

import sys
import time

from dapr.ext.grpc import App, InvokeMethodRequest, InvokeMethodResponse

app = App()


@app.method("wait")
def wait(request: InvokeMethodRequest) -> InvokeMethodResponse:
    time.sleep(0.02)
    return InvokeMethodResponse(request.data, request.content_type)


app.run(int(sys.argv[1]), "127.0.0.1")
