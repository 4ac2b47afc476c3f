"""The line that a person can paste once the stack is up: a call of the first rpc that is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc.aio

from apibase.cli.contracts import Contracts
from apibase.cli.discovery import CHANNEL_OPTIONS, serving_apps
from apibase.local.errors import StackError

if TYPE_CHECKING:
    from pathlib import Path

    from apibase.local.stack import Stack


async def suggest_call(stack: Stack, descriptors: Path) -> str:
    """The command, or "" where there is nothing to call: no descriptors, or no app that says what it serves."""
    try:
        contracts = Contracts(descriptors)
    except StackError:
        return ""
    apps = [instance.spec.app_id for instance in stack.instances if instance.spec.is_grpc and instance.app]
    if not stack.instances or not apps:
        return ""
    address = stack.sidecar(stack.instances[-1].spec.app_id).grpc_address
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        for service in contracts.services():
            if service.methods and await serving_apps(channel, service.full_name, apps):
                return f"apibase call {service.full_name}/{service.methods[0].name} -d '{{}}'"
    return ""
