"""The report: all of a result in words, and nothing in it that runs, loads or deceives."""

import base64
import hashlib
import re
from html import escape
from html.parser import HTMLParser
from io import StringIO
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fleet.cli.output import console
from fleet.cli.report import html, markdown
from fleet.cli.report.command import Format, for_people, rendered
from fleet.cli.report.differences import difference
from fleet.cli.report.words import reason
from fleet.cli.report.writing import document
from fleet.deliberation.events import CancelAsked
from fleet.deliberation.machine import decide
from fleet.messages import AgentRequested, AgentResponse, DeliberationCompleted, TerminalEvent, decode, encode
from tests.support.agents import answer, failure
from tests.support.council import NOW, begin, completed, run_to_end
from tests.unit.observability.test_visible import controls_in

HOSTILE = (
    "\x1b]0;x\x07\u202e<script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>"
    "![x](http://evil.example/i.png) [y](javascript:alert(1)) <http://evil.example> www.evil.example "
    "http://evil.example "
    '"></pre></style><style>@import "http://evil.example"</style>\n```\n````\n# heading\n| a | b |\n|---|---|\n'
    "&lt;script&gt; <!-- ]]> \\"
)
ENUMS = {"status", "phase", "method", "decided_by", "selection", "stop_reason", "error_type", "priority", "cache"}
TIMES = {"accepted_at", "completed_at"}
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "ul", "li", "pre", "div"),
    *("table", "thead", "tbody", "tr", "th", "td", "details", "summary", "span", "del", "ins", "i"),
}
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "dir", "class", "scope"}


def hostile(value: Any, text: str, name: str = "") -> Any:
    """The same with `text` before every string that people, models or servers write, names of criteria included."""
    if isinstance(value, dict):
        keys = {key: text + key if name in ("criteria", "scores", "rubric", "usage_by_model") else key for key in value}
        return {keys[key]: hostile(each, text, key) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [hostile(each, text, name) for each in value]
    return text + value if isinstance(value, str) and name not in ENUMS | TIMES else value


def all_hostile(event: TerminalEvent, text: str) -> TerminalEvent:
    changed: TerminalEvent = msgspec.convert(hostile(msgspec.to_builtins(event), text), type(event))
    return changed


def rich_event() -> DeliberationCompleted:
    """With a revision, a refusal to revise, a failed call, a comparison, a synthesis."""

    def respond_to(call: AgentRequested) -> AgentResponse:
        if call.phase == "revise" and call.agent_id.endswith("2"):
            return answer(call).change(proposal=None, declined="It is right.")
        return failure(call) if call.phase == "score" and call.agent_id.endswith("3") else answer(call)

    event, _ = completed(
        respond_to, num_agents=4, rounds=2, early_stop=False, synthesis=True, requirements=("survives a restart",)
    )
    return event


def events() -> list[TerminalEvent]:
    """Of every kind."""
    failed, _ = run_to_end(begin(), failure)
    cancelled = decide(begin().state, CancelAsked("enough", NOW)).state
    assert failed.result is not None
    assert cancelled.result is not None
    vote, _ = completed(selection="vote", rounds=0)
    checks, _ = completed(selection="checks", rounds=0)
    architect, _ = completed(selection="architect", rounds=0)
    alone, _ = completed(num_agents=1)
    prose, _ = completed(rubric="Is it kind?")
    return [rich_event(), failed.result, cancelled.result, vote, checks, architect, alone, prose]


EVENTS = events()
each_event = pytest.mark.parametrize("event", EVENTS, ids=lambda event: f"{type(event).__name__}")


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.style = ""
        self.policy = ""
        self._in: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._in.append(tag)
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"] or ""

    def handle_data(self, data: str) -> None:
        if self._in[-1:] == ["style"]:
            self.style += data
        else:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._in.append(f"/{tag}")

    def handle_comment(self, data: str) -> None:
        self.tags.add("<!--")


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    elements.close()
    return elements


@each_event
def test_no_text_becomes_html(event: TerminalEvent) -> None:
    """Whoever wrote it, and wherever it stands: no element, no attribute, no control."""
    page = rendered(all_hostile(event, HOSTILE), Format.HTML)
    elements = parsed(page)
    assert elements.tags <= TAGS
    assert elements.attributes <= ATTRIBUTES
    assert controls_in(page) == []
    assert "<script>alert(1)</script>" in elements.text
    assert "\\x1b]0;x\\x07‹U+202E›" in elements.text


@each_event
def test_the_policy_forbids_everything_but_the_one_style_sheet(event: TerminalEvent) -> None:
    """A browser that found something in it would not load it."""
    elements = parsed(rendered(event, Format.HTML))
    digest = base64.b64encode(hashlib.sha256(elements.style.encode()).digest()).decode()
    assert elements.policy == (f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'")
    assert "url(" not in elements.style
    assert "@import" not in elements.style


@each_event
def test_no_text_becomes_markdown(event: TerminalEvent) -> None:
    """No link, image or HTML, no emphasis; and no fence is closed from inside."""
    page = rendered(all_hostile(event, HOSTILE), Format.MD)
    reader = MarkdownIt("gfm-like", {"html": True, "linkify": False})
    kinds: set[str] = set()
    said: list[str] = []
    for token in reader.parse(page):
        kinds |= {token.type, *(child.type for child in token.children or ())}
        said += [child.content for child in token.children or () if child.type.startswith("text")]
    assert not kinds & {"link_open", "image", "html_inline", "html_block", "code_inline", "em_open", "strong_open"}
    assert not kinds & {"ordered_list_open", "blockquote_open", "hr", "code_block", "s_open"}
    assert controls_in(page) == []
    assert any("<script>alert(1)</script>" in text for text in said)
    # No bare address that a site could make a link of.
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", page, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"https?://|www\.evil", outside)


@given(st.text(alphabet="`~#*_[]()<>!&|\\-+.:1a \n\t", max_size=40))
def test_any_line_is_shown_as_it_is(text: str) -> None:
    """Markdown makes of it what it is, but for spaces."""
    rendered_line = markdown.text(text)
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(f"| {rendered_line} |\n|---|\n")
    inline = next(token for token in tokens if token.type == "inline")
    shown = "".join(child.content for child in inline.children or ())
    assert {child.type for child in inline.children or ()} <= {"text", "text_special"}
    assert shown.split() == text.split()


def test_a_report_tells_all_of_it() -> None:
    """Question, verdict, texts, earlier texts, reasons, declines, failures, cost: in both formats."""
    event = rich_event()
    for format_ in (Format.HTML, Format.MD):
        page = rendered(event, format_)
        said = parsed(page).text if format_ is Format.HTML else page.replace("\\", "")
        for result in event.results:
            assert result.proposal.content in said
            assert all(text.content in said for text in result.earlier)
            assert all(each.reason in said for each in result.declined)
        rationales = [
            card.rationale for each in event.results for one in each.reviews for card in one.criteria.values()
        ]
        assert all(rationale in said for rationale in rationales)
        assert "Build it" in said
        assert "survives a restart" in said
        assert event.synthesis is not None
        assert event.synthesis.content in said
        assert "What it cost is not known" in said
        assert event.failed_agents[0].error in said
        assert "Dissent" in said


@pytest.mark.parametrize("cost", [0.0, 1.25])
def test_a_known_cost_is_told(cost: float) -> None:
    """Nothing is a cost, too."""
    page = rendered(rich_event().change(cost=cost), Format.MD).replace("\\", "")
    assert f"It cost {cost:,.6f}" in page


def test_dissent_names_who_put_another_first() -> None:
    """By its own scores; the reviewer who agrees is not among them."""

    def judged(call: AgentRequested) -> AgentResponse:
        return answer(call, judge=lambda call, author: 9 if (call.agent_id[-1], author[-1]) in LIKES else 5)

    event, _ = completed(judged, num_agents=4, rounds=0)
    assert event.winner_id == "agent-dev-001"
    (section,) = (section for section in document(event).sections if section.title == "Dissent")
    items = getattr(section.blocks[0], "items", ())
    assert [item.split()[0] for item in items] == ["agent-dev-004"]


LIKES = {("2", "1"), ("3", "1"), ("4", "2")}


def test_a_failed_deliberation_has_a_report_too() -> None:
    """What was asked, and why there is no answer."""
    for event in EVENTS[1:3]:
        page = rendered(event, Format.MD).replace("\\", "")
        assert "There is no verdict" in page
        assert "Build it" in page


def test_json_is_the_event() -> None:
    """To the bit."""
    event = rich_event()
    assert decode(rendered(event, Format.JSON).encode(), DeliberationCompleted) == event
    assert controls_in(rendered(all_hostile(event, HOSTILE), Format.JSON)) == []
    assert encode(event)


def test_a_difference_shows_what_changed_and_a_little_around_it() -> None:
    """Sentences of a long paragraph count as lines; what is far from any change is left out."""
    same = [f"line {number}" for number in range(20)]
    long = "This sentence stays. " * 8
    before = "\n".join([*same, long + "It ends badly.", *same])
    after = "\n".join([*same, long + "It ends well.", *same])
    lines = difference(before, after).lines
    assert ("gone", "It ends badly.") in lines
    assert ("new", "It ends well.") in lines
    assert [text for change, text in lines if change == "left out"]
    assert len(lines) < 12


@given(st.lists(st.sampled_from("abcd")), st.lists(st.sampled_from("abcd")))
def test_a_difference_leaves_nothing_out_but_what_stays(before: list[str], after: list[str]) -> None:
    """What is gone stood in the one, what is new stands in the other."""
    lines = difference("\n".join(before), "\n".join(after)).lines
    left_out = sum(int(text.split()[0]) for change, text in lines if change == "left out")
    same = sum(change == "same" for change, _ in lines) + left_out
    assert same + sum(change == "gone" for change, _ in lines) == len("\n".join(before).splitlines())
    assert same + sum(change == "new" for change, _ in lines) == len("\n".join(after).splitlines())


def test_html_has_one_renderer_for_every_block() -> None:
    """A report of everything is a whole page."""
    page = html.render(document(rich_event()))
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")


def test_a_terminal_shows_no_escapes() -> None:
    """Nor what they are there for: a text that says `*` says it there, and nothing of it is a link."""
    event = completed(num_agents=1)[0].change(task_id="[a](http://b.example) *c* <d> #e | f_g")
    out = StringIO()
    console(file=out, width=200, force_terminal=True, color_system=None).print(for_people(rendered(event, Format.MD)))
    shown = out.getvalue()
    assert "[a](http://b.example) *c* <d> #e | f_g" in shown
    assert "\\" not in shown
    assert "\x1b]8" not in shown


def test_a_reason_of_nothing_but_backticks_is_read_at_once() -> None:
    """Each begins no search of its own."""
    text = " ".join("`" * length for length in range(400))
    assert reason(text) == text


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (r"`max_in_flight` and max\_in\_flight, 3 \* 4, \#5", "`max_in_flight` and max_in_flight, 3 * 4, #5"),
        (r"the pattern `a\*b\_` and ``c\*`d`` stay", r"the pattern `a\*b\_` and ``c\*`d`` stay"),
        (r"\\_ C:\new \(x\) \d+ ` \_", r"\\_ C:\new \(x\) \d+ ` _"),
        (r"no code: ``a\_`", "no code: ``a_`"),
    ],
)
def test_escapes_of_a_models_markdown_are_no_part_of_its_reason(written: str, shown: str) -> None:
    """In every format the reader sees the characters that it means; code stays as it is, and so does anything else."""
    assert reason(written) == shown
    event = rich_event()
    first = event.results[0]
    review = next(review for review in first.reviews if review.criteria)
    name, card = next(iter(review.criteria.items()))
    reviews = [
        each.change(criteria={**each.criteria, name: card.change(rationale=written)}) if each is review else each
        for each in first.reviews
    ]
    told = event.change(results=[first.change(reviews=reviews), *event.results[1:]])
    assert escape(shown) in html.render(document(told))
    out = StringIO()
    console(file=out, width=1000, force_terminal=True, color_system=None).print(for_people(rendered(told, Format.MD)))
    assert shown in out.getvalue()
