"""What counts as an answer: JSON in a fence or not, against its schema, with two leniencies."""

import pytest

from fleet.errors import AgentCallError
from workers.answers import parse

SCHEMA = {
    "type": "object",
    "properties": {"A": {"type": "string", "maxLength": 3}, "n": {"type": "integer", "maximum": 10}},
    "required": ["A"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("text", ['{"A": "x"}', '```json\n{"A": "x"}\n```', '{"A": "x\ny"}', '{"A": "four"}'])
def test_usable_answers_are_taken(text: str) -> None:
    """Fences, raw line breaks in strings, and strings a little too long are no reason for another call."""
    assert "A" in parse(text, SCHEMA)


@pytest.mark.parametrize(
    ("text", "where"),
    [("no", "not JSON"), ("{}", "$"), ('{"A": 1}', "$.A"), ('{"A": "x", "n": 11}', "$.n"), ("[]", "$")],
)
def test_other_answers_say_what_to_mend(text: str, where: str) -> None:
    """The error names the place; it is worth another try."""
    with pytest.raises(AgentCallError, match=r".") as caught:
        parse(text, SCHEMA)
    assert (caught.value.error_type, caught.value.retryable) == ("InvalidAnswer", True)
    assert where in caught.value.error
