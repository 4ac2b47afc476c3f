"""The toy project's demo: its first argument is the exit code."""


async def run(context):
    """Say that it ran."""
    context.console.print(f"demo on {context.stack.sidecar('caller').grpc_address}")
    return int((context.arguments or ("0",))[0])
