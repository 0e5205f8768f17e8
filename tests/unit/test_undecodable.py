"""What is said of a text that cannot be decoded: in plain words, with its place."""

import json
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
import typer

from fleet import config
from fleet.cli import options
from fleet.errors import BadRequest, ConfigError
from fleet.messages import Policy
from fleet.requests.parse import parse_request
from fleet.undecodable import why_undecodable
from workers.checks import check

Short = Annotated[str, msgspec.Meta(max_length=3)]


class Asked(msgspec.Struct):
    count: int = 0
    text: str = ""
    notes: dict[Short, Short] = {}


def of(data: bytes) -> str:
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)) as caught:
        msgspec.json.decode(data, type=Asked)
    return why_undecodable(caught.value, data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"not json", "not JSON: a value is expected, in line 1, column 1"),
        (b"{", "not JSON: it ends too early, in line 1, column 2"),
        (b'{"count": ', "not JSON: it ends too early, in line 1, column 11"),
        (b'{"count": 1,\n}', "not JSON: a name in double quotes is expected, in line 2, column 1"),
        (b"{'count': 1}", "not JSON: a name in double quotes is expected, in line 1, column 2"),
        (b'{"count" 1}', "not JSON: a `:` is expected after the name, in line 1, column 10"),
        (b'{"count": 1 "x": 2}', "not JSON: a `,` or the closing bracket is expected, in line 1, column 13"),
        (b'{"count": 1} {}', "not JSON: something follows after the end, in line 1, column 14"),
        (b'{"x": "a\n"}', r"not JSON: a string holds a line end or a control character: write \n and its like, in"),
        (b'{"x": "a', 'not JSON: the string that begins there has no closing `"`, in line 1, column 7'),
        (b'{"count": NaN}', "not JSON: NaN is no value of JSON"),
        (b'{"text": "\\ud800"}', "not JSON: one half of a surrogate pair stands alone"),
        (b'\xef\xbb\xbf{"count": 1}', "not JSON: it begins with a byte order mark; save it without one"),
        (b'{"text":\n "\xe4"}', "not UTF-8: byte 0xe4 in line 2, column 3; encode it as UTF-8"),
        (b"\xff\xfe", "not UTF-8: byte 0xff in line 1, column 1; encode it as UTF-8"),
        (b'{"count": "x"}', "$.count: expected a whole number, got a string"),
    ],
)
def test_the_place_and_what_is_wrong(data: bytes, said: str) -> None:
    """Not in the words of Python."""
    assert of(data).startswith(said)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"notes": {"a": "b", "b": "long"}}', "$.notes[...]: must have at most 3 characters"),
        (b'{"notes": {"long": "b"}}', "$.notes: a name in it must have at most 3 characters"),
    ],
)
def test_where_msgspec_names_no_entry_no_length_is_told(data: bytes, said: str) -> None:
    """It would be that of something else."""
    assert of(data) == said


@pytest.mark.parametrize("data", [b'{"text": "\xff"}' + b" " * 2_000_000, b'{"text": "' + b"a" * 2_000_000])
def test_what_is_large_is_told_of_too(data: bytes) -> None:
    """Without reading it all a second time."""
    assert of(data).startswith("not ")


def test_texts_of_pythons_own_parser_are_told_likewise() -> None:
    """The command line reads requests with it."""
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads('{"a": }')
    assert why_undecodable(caught.value, '{"a": }') == "not JSON: a value is expected, in line 1, column 7"


def test_a_number_that_python_does_not_read_is_told_without_pythons_advice() -> None:
    """A model, or whoever writes a request, cannot set how long a number it reads."""
    text = f'{{"a": {"1" * 5000}}}'
    with pytest.raises(ValueError, match="set_int_max_str_digits") as caught:
        json.loads(text)
    assert why_undecodable(caught.value, text) == "not JSON: a number has too many digits"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"task_description": "Gr\xfc\xdfe"}', "not UTF-8: byte 0xfc in line 1, column 25; encode it as UTF-8"),
        (b'{"task_description": "x",}', "not JSON: a name in double quotes is expected, in line 1, column 26"),
    ],
)
def test_a_request_that_cannot_be_read_is_told_where(tmp_path: Path, body: bytes, said: str) -> None:
    """By the fleet, and by the command line before it is sent."""
    with pytest.raises(BadRequest) as refused:
        parse_request(body, 7, None)
    assert refused.value.error == f"$: {said}"
    file = tmp_path / "request.json"
    file.write_bytes(body)
    with pytest.raises(typer.BadParameter) as bad:
        options.request(file=str(file))
    assert said in str(bad.value)
    assert str(file) in str(bad.value)


def test_an_option_that_begins_like_json_is_json() -> None:
    """A slip in a schema is no text that is sent."""
    with pytest.raises(typer.BadParameter, match="--option output_schema: not JSON: a name in double quotes"):
        options.request("x", option=["output_schema={type: object}"])


async def test_a_check_tells_it_likewise() -> None:
    """What a proposal's JSON lacks."""
    (finding,) = (await check('```json\n{"a": 1 "b": 2}\n```', Policy()))["json"].findings
    assert "a `,` or the closing bracket is expected" in finding


def test_a_byte_order_mark_of_a_file_is_no_matter(tmp_path: Path) -> None:
    """Editors write it."""
    request, settings = tmp_path / "request", tmp_path / "fleet.toml"
    request.write_bytes(b'\xef\xbb\xbf{"task_description": "x", "rounds": 0}')
    assert options.request(file=str(request)) == {"task_description": "x", "rounds": 0}
    settings.write_bytes(b"\xef\xbb\xbf[limits]\r\nmax_in_flight = 7\r\n")
    assert config.load({"FLEET_CONFIG": str(settings)}).limits.max_in_flight == 7


def test_settings_in_another_encoding_are_told_where(tmp_path: Path) -> None:
    """Whatever the encoding of this machine is."""
    file = tmp_path / "fleet.toml"
    file.write_bytes('[roles.DEV]\npersona = "Prüfe"\n'.encode("latin-1"))
    with pytest.raises(ConfigError) as wrong:
        config.load({"FLEET_CONFIG": str(file)})
    assert str(wrong.value) == (
        f"FLEET_CONFIG: {file} is not UTF-8: byte 0xfc in line 2, column 14; encode it as UTF-8"
    )
