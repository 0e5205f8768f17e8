"""What a component of the fleet must be allowed on NATS, and what NATS would decide."""

from fleet import subjects

PUBLISHES = (
    subjects.REQUESTED,
    subjects.ACCEPTED,
    *subjects.TERMINAL,
    subjects.REJECTED,
    subjects.AGENT_REQUESTED,
    subjects.AGENT_COMPLETED,
    subjects.AGENT_FAILED,
    subjects.AGENT_PROGRESS,
    subjects.AGENT_STOP,
    subjects.instance_of("example"),
    subjects.schedule_of("example"),
    subjects.deadletter_of(subjects.REQUESTED),
    f"$KV.{subjects.BUCKET}.example",
    f"$JS.API.STREAM.INFO.{subjects.DELIBERATIONS}",
    f"$JS.API.STREAM.MSG.DELETE.{subjects.AGENT_REQUESTS}",
)
SUBSCRIBES = (
    subjects.ASK,
    subjects.RESULT,
    subjects.CANCEL,
    subjects.AGENT_STOP,
    subjects.instance_of("example"),
    subjects.DELIVER_REQUESTS,
    subjects.DELIVER_RESPONSES,
    subjects.DELIVER_CONTROL,
    subjects.exhausted(subjects.AGENT_REQUESTS, subjects.WORKERS),
    "_INBOX.example",
)


def allowed(rules: dict[str, list[str]] | None, subject: str) -> bool:
    """What NATS would decide; no rules, or none of a kind, allow everything."""
    rules = rules or {}
    allow, deny = rules.get("allow"), rules.get("deny") or []
    return (not allow or any(matches(rule, subject) for rule in allow)) and not any(
        matches(rule, subject) for rule in deny
    )


def matches(pattern: str, subject: str) -> bool:
    """Whether `pattern`, with `*` and `>`, covers `subject`."""
    wanted, given = pattern.split(" ")[0].split("."), subject.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(given) > position
        if position >= len(given) or token not in ("*", given[position]):
            return False
    return len(wanted) == len(given)
