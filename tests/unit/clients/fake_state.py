"""The fake sidecar with the rest of the state API: bulk, transactions, queries. Their failures have the texts of the real ones."""

from __future__ import annotations

import json
from typing import Any

from dapr.proto import api_v1
from google.protobuf.empty_pb2 import Empty

from tests.unit.fake_dapr import FakeDapr

CAPABILITIES = ["ETAG", "TRANSACTIONAL", "TTL"]


class FakeState(FakeDapr):
    """`type` is that of the component `statestore`; `queried` what queries asked, `answer` what they get."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.answer = api_v1.QueryStateResponse()
        self.queried: list[dict[str, Any]] = []
        self.broken: dict[str, str] = {}

    def become(self, type_: str, *capabilities: str) -> None:
        self.components["statestore"] = type_
        self.capabilities["statestore"] = list(capabilities or CAPABILITIES)

    def methods(self) -> list[str]:
        return [call.method for call in self.calls if call.method != "GetMetadata"]

    async def GetBulkState(self, request: Any, context: Any) -> Any:
        await self._take("GetBulkState", request, context)
        items = []
        for key in request.keys:
            if key in self.broken:
                items.append(api_v1.BulkStateItem(key=key, error=self.broken[key]))
            elif (row := self.rows.get(key)) is not None:
                items.append(api_v1.BulkStateItem(key=key, data=row.data, etag=row.etag))
            else:
                items.append(api_v1.BulkStateItem(key=key))
        return api_v1.GetBulkStateResponse(items=items)

    async def DeleteBulkState(self, request: Any, context: Any) -> Any:
        await self._take("DeleteBulkState", request, context)
        for each in request.states:
            self.rows.pop(each.key, None)
        return Empty()

    async def ExecuteStateTransaction(self, request: Any, context: Any) -> Any:
        await self._take("ExecuteStateTransaction", request, context)
        await self._done("ExecuteStateTransaction", context)
        return Empty()

    async def QueryStateAlpha1(self, request: Any, context: Any) -> Any:
        await self._take("QueryStateAlpha1", request, context)
        self.queried.append(json.loads(request.query))
        return self.answer
