"""The toy project's demo: its first argument is the exit code."""


async def run(context):
    """Say that it ran."""
    context.console.print(f"demo on {context.stack.sidecar('caller').grpc_address}")
    return int((context.arguments or ("0",))[0])


def prepare(arguments, app_ids):
    """Refuse what is no exit code."""
    if "--help" in arguments:
        raise SystemExit
    if arguments and not arguments[0].isdigit():
        raise ValueError(f"expected an exit code, found {arguments[0]!r}; there are {', '.join(app_ids)}")


run.prepare = prepare
