"""Headers of everything the fleet publishes: message id, trace context, CloudEvents in binary mode."""

import secrets

from fleet.times import now_ms, rfc3339


def headers(subject: str, msg_id: str, source: str, task_id: str, traceparent: str) -> dict[str, str]:
    """`source` is `/fleet/<component>`; `msg_id` is deterministic, so that JetStream drops a repetition."""
    return {
        "Nats-Msg-Id": msg_id,
        "traceparent": traceparent,
        "Task-Id": task_id,
        "ce-id": msg_id,
        "ce-source": source,
        "ce-type": subject,
        "ce-specversion": "1.0",
        "ce-time": rfc3339(now_ms()),
    }


def child_traceparent(traceparent: str | None) -> str:
    """The next span of the same trace (W3C Trace Context), or the first of a new one."""
    parts = (traceparent or "").split("-")
    if len(parts) == 4 and len(parts[1]) == 32 and len(parts[2]) == 16:
        return f"00-{parts[1]}-{secrets.token_hex(8)}-{parts[3]}"
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
