"""The line that a person can paste once the stack is up: a call of the first rpc that is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc.aio

from apibase.cli.contracts import Contracts
from apibase.cli.discovery import CHANNEL_OPTIONS, serving_apps
from apibase.local.errors import StackError
from apibase.local.wording import apibase

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
        asked: set[str] = set()
        for method in contracts.rpcs():
            service = method.containing_service.full_name
            if service not in asked and await serving_apps(channel, service, apps):
                return f"{apibase()} call {service}/{method.name} -d '{{}}'"
            asked.add(service)
    return ""
