"""JSON files: bounded, plain, finite; every refusal begins with the file's name."""

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from pydantic import BaseModel

from sharpgpt.core import jsonio


class Content(BaseModel):
    step: int


def pipe(path: Path) -> None:
    os.mkfifo(path)


def written(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (pipe, "file.json is no plain file"),
        (Path.mkdir, "file.json is no plain file"),
        (written('{"step": 1}' + " " * 1000), "file.json has more than 1,000 bytes"),
        (written(""), "file.json: Expecting value"),
        (written("[1]"), "file.json: not a JSON object"),
        (written('{"step": NaN}'), "file.json: NaN is not JSON"),
        (written('{"step": -Infinity}'), "file.json: -Infinity is not JSON"),
        (written('{"a":' * 90), "file.json: "),
        (lambda path: path.write_bytes(b'{"a": "\xff"}'), "file.json: .*decode byte 0xff"),
    ],
)
def test_what_is_no_object_is_refused_by_name(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "file.json")
    with pytest.raises(ValueError, match=f"^{message}"):
        jsonio.read_object(tmp_path / "file.json", max_bytes=1000)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        jsonio.parse("[" * 100_000)


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        jsonio.read_object(tmp_path / "absent")


def test_links_are_followed_unless_refused(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text('{"step": 1}', encoding="utf-8")
    link = tmp_path / "link.json"
    link.symlink_to("file.json")
    assert jsonio.read_object(link) == {"step": 1}
    with pytest.raises(ValueError, match=r"^link\.json is no plain file"):
        jsonio.read_bytes(link, follow_links=False)


def test_a_model_is_read_or_its_first_problem_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"step": 3}', encoding="utf-8")
    assert jsonio.read_model(path, Content).step == 3
    path.write_text('{"step": "x"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"^file\.json: step: Input should be a valid integer"):
        jsonio.read_model(path, Content)


def test_lines_that_are_no_object_are_counted() -> None:
    data = '{"a": "x\u2028y"}\n\n[1]\n{"b": NaN}\n{"torn'.encode()
    objects, num_unreadable = jsonio.parse_lines(data)
    assert objects[0] == {"a": "x\u2028y"}
    assert math.isnan(objects[1]["b"])
    assert num_unreadable == 2


def test_what_is_written_is_json_whatever_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.json"
    jsonio.write_json(path, {"a": [math.nan, (1.5, math.inf)], "b": "é \udcff"})
    assert jsonio.read_object(path) == {"a": [None, [1.5, None]], "b": "é ?"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' appears twice"),
        ('{"a": 1e999}', "too large for a float"),
        ('{"a": ' + "9" * 400 + "}", "more than 64 bits"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_later_code_would_stumble_over_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    """Each ended in a traceback far from the file: OverflowError, RecursionError, TypeError."""
    path = tmp_path / "file.json"
    path.write_text(text, encoding="utf-8")
    for read in (jsonio.read_object, partial(jsonio.read_model, kind=Content)):
        with pytest.raises(ValueError, match=rf"^file\.json: .*{message}"):
            read(path)
    if "surrogate" in message:
        assert jsonio.parse(text, allow_nan=True) == {"a": "?"}
    assert jsonio.parse('{"a": "\\ud83d\\ude00", "b": 9223372036854775807}') == {
        "a": "😀",
        "b": 2**63 - 1,
    }


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """A sparse file has any size and costs nothing to send; 3 GB of it were read into memory."""
    path = tmp_path / "file.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"^file\.json has more than 33,554,432 bytes"):
        jsonio.read_object(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"^file\.json is no plain file"):
        jsonio.read_object(path)


def test_too_many_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 2,000,000 lines"):
        jsonio.parse_lines(b"\n" * 2_000_001)
