from msgspec import structs

from fleet.jetstream.topology import WORKERS_MAX_DELIVER
from tests.unit.workers.calls.test_task_view import REQUEST
from workers.calls.caller import first_attempt
from workers.llm.retry import ATTEMPTS_PER_DELIVERY


def test_no_two_deliveries_of_a_call_share_the_number_of_an_attempt() -> None:
    """Nor does the call that was published again after its stream was lost, however often the first was delivered."""
    starts = [
        first_attempt(structs.replace(REQUEST, attempt=attempt), delivery)
        for attempt in (1, 2, 3)
        for delivery in range(1, WORKERS_MAX_DELIVER + 1)
    ]
    assert starts == list(range(1, len(starts) * ATTEMPTS_PER_DELIVERY, ATTEMPTS_PER_DELIVERY))
