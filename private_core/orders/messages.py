"""Orders as messages: what callers are answered, and what the warehouse is told."""

from typing import Final

from isthmus.orders.v1 import events_pb2, orders_pb2

from private_core.orders.domain import Order, State
from private_core.translation import money_message

_STATES: Final = {
    State.PLACED: orders_pb2.ORDER_STATE_PLACED,
    State.CANCELLING: orders_pb2.ORDER_STATE_CANCELLING,
    State.CANCELLED: orders_pb2.ORDER_STATE_CANCELLED,
    State.AUTHORIZED: orders_pb2.ORDER_STATE_AUTHORIZED,
    State.CAPTURED: orders_pb2.ORDER_STATE_CAPTURED,
    State.REFUNDED: orders_pb2.ORDER_STATE_REFUNDED,
}


def order_message(order: Order) -> orders_pb2.Order:
    return orders_pb2.Order(
        order_id=order.order_id,
        member_id=order.member_id,
        state=_STATES[order.state],
        lines=[
            orders_pb2.OrderLine(sku=line.sku, quantity=line.quantity, amount=money_message(line.amount))
            for line in order.lines
        ],
        total=money_message(order.total),
        source_time_us=order.source_time_us,
        placed_time_us=order.placed_time_us,
        click_id=order.click_id,
    )


def order_changed(order: Order) -> events_pb2.OrderChanged:
    return events_pb2.OrderChanged(
        order_id=order.order_id,
        member_id=order.member_id,
        state=_STATES[order.state],
        total=money_message(order.total),
        click_id=order.click_id,
        source_time_us=order.source_time_us,
        placed_time_us=order.placed_time_us,
    )
