"""Clients' regular expressions: refused before they can do harm, with the reason."""

import pytest

from fleet.requests.patterns import bad_pattern, compile_pattern, positions


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("abc", 3),
        ("a{3}b", 4),
        ("a{2,5}", 5),
        ("a{3,}", 3),
        ("(ab){10}", 30),
        ("((a{10}){10}){10}", 1110),
        (r"\{3\}", 3),
        (r"\p{L}{4}", 4),
        ("[]{9}]{2}", 2),
        ("[^]]{2}x", 3),
        ("a{x}", 4),
        ("a{", 2),
    ],
)
def test_positions_count_repeats_as_written_out(pattern: str, expected: int) -> None:
    """Counted repeats multiply, nested ones too; what only looks like one does not."""
    assert positions(pattern) == expected


@pytest.mark.parametrize("pattern", ["(a{1000}){1000}", "(((a{1000}){1000}){1000}){1000}", "(a{500}b{500}){11}"])
def test_pattern_that_would_fill_the_memory_is_refused(pattern: str) -> None:
    """Before it is compiled, and the reason says so."""
    reason = bad_pattern(pattern)
    assert reason is not None
    assert "10,000 positions" in reason


@pytest.mark.parametrize("pattern", ["(", "[a", "a**b(", "(?P<x>a)(?P<x"])
def test_what_is_no_pattern_is_refused_with_the_reason(pattern: str) -> None:
    """Whatever else the counting makes of it."""
    assert bad_pattern(pattern)


def test_lines_begin_and_end_anchors() -> None:
    """`^` and `$` stand at every line."""
    assert compile_pattern("^b$").search("a\nb\nc")
