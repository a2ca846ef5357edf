"""The Content service over gRPC."""

from typing import Any

import grpc
from isthmus.content.v1 import content_pb2, content_pb2_grpc

from public_edge.content.reading import Reader
from public_edge.content.receipts import Receipts
from public_edge.grpc_origin import origin_of


class ContentService(content_pb2_grpc.ContentServicer):
    def __init__(self, reader: Reader, receipts: Receipts) -> None:
        self._reader = reader
        self._receipts = receipts

    async def GetItem(
        self, request: content_pb2.GetItemRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> content_pb2.GetItemResponse:
        locales = [request.locale] if request.locale else []
        page, _ = await self._reader.read(request.slug, locales, None, request.source_time_us, origin_of(context))
        item = page.item
        return content_pb2.GetItemResponse(
            slug=item.slug,
            locale=item.locale,
            version=item.version,
            title=item.title,
            body=item.body,
            etag=page.etag,
        )

    async def TellReceipt(
        self, request: content_pb2.TellReceiptRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> content_pb2.TellReceiptResponse:
        step = content_pb2.ReceiptStep.Name(request.step).removeprefix("RECEIPT_STEP_")
        await self._receipts.tell(request.slug, request.delivery_id, step, request.source_time_us, origin_of(context))
        return content_pb2.TellReceiptResponse()
