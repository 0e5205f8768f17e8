"""Defines how long things are kept and waited for, where one figure follows from another."""

from typing import Final

MINUTE_S: Final = 60.0
HOUR_S: Final = 60 * MINUTE_S
DAY_S: Final = 24 * HOUR_S

LONGEST_DELIBERATION_S: Final = HOUR_S
"""The longest `timeout_seconds` that a request may have."""
LONGEST_CALL_S: Final = LONGEST_DELIBERATION_S + MINUTE_S
"""Of the service: a deliberation, and a minute for what comes before and after."""
CALLS_S: Final = 2 * LONGEST_DELIBERATION_S
"""Agent calls and the texts that they refer to."""
LONGEST_TASK_S: Final = CALLS_S
"""No acceptance older than this belongs to a running task."""
ANSWERS_S: Final = DAY_S
LETTERS_S: Final = 30 * DAY_S
COUNTERS_S: Final = 40 * DAY_S
"""Of what tenants have used: a month, and some days."""

CONTROL_ACK_WAIT_S: Final = 5.0
"""The control plane's handlers take milliseconds: a delivery that is not acknowledged by then died with its process."""
KEEP_EVERY_S: Final = 0.3 * CONTROL_ACK_WAIT_S
"""How often NATS is told that a held delivery is in progress. One that is late, or lost, must not matter."""
LEASE_S: Final = CONTROL_ACK_WAIT_S / 2
"""A process that has held a delivery for longer may have been replaced by another one."""

DUPLICATE_WINDOW_S: Final = 2.0 * MINUTE_S
"""A terminal event is published again within a minute of a crash: the stream must still know its id."""
