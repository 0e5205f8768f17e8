"""What workers log reaches whoever launched them."""

import io

from workers.ray_pool.stderr_lines import KEPT_LINES, StderrLines


def test_each_watcher_is_told_once() -> None:
    """Everything is passed on besides; a line that is not whole waits."""
    stream = io.StringIO()
    lines = StderrLines(stream)
    lines.write("one\ntwo\nthr")
    assert lines.new_for("a") == ["one", "two"]
    assert lines.new_for("a") == []
    assert lines.new_for("b") == []
    lines.writelines(["ee\n", "four\n"])
    assert lines.new_for("b") == ["three", "four"]
    assert lines.new_for("a") == ["three", "four"]
    assert stream.getvalue() == "one\ntwo\nthree\nfour\n"


def test_what_is_too_much_is_counted() -> None:
    """The last lines are told, and how many are missing."""
    lines = StderrLines(io.StringIO())
    lines.write("x\n" * (KEPT_LINES + 7))
    told = lines.new_for("a")
    assert "(7 lines" in told[0]
    assert told[1:] == ["x"] * KEPT_LINES
