"""Defines the Python client: submit a request, wait for its result, watch it, cancel it.

from fleet.client import connect

async with connect("nats://127.0.0.1:4222") as fleet:
    result = await fleet.ask("Design a rate limiter", agents=3)
"""

from fleet.client.connection import ServiceError, Ticket
from fleet.client.fleet import Event, Fleet, connect
from fleet.client.listing import Summary
from fleet.errors import BadRequest, FleetError, Unreachable
from fleet.messages import (
    DeliberationCancelled,
    DeliberationCompleted,
    DeliberationFailed,
    FollowReply,
    ResultReply,
    TerminalEvent,
)

__all__ = [
    "BadRequest",
    "DeliberationCancelled",
    "DeliberationCompleted",
    "DeliberationFailed",
    "Event",
    "Fleet",
    "FleetError",
    "FollowReply",
    "ResultReply",
    "ServiceError",
    "Summary",
    "TerminalEvent",
    "Ticket",
    "Unreachable",
    "connect",
]
