"""Keys and places become the events that QEMU takes."""

from __future__ import annotations

import pytest

from tartlet.console import keys
from tartlet.errors import InvalidArgument


def pressed(events: list[keys.Event]) -> list[str]:
    """`+a` for a key that goes down, `-a` for one that comes up."""
    return [("+" if event["data"]["down"] else "-") + event["data"]["key"]["data"] for event in events]


@pytest.mark.parametrize(
    ("character", "strokes"),
    [
        ("a", ["+a", "-a"]),
        ("A", ["+shift", "+a", "-a", "-shift"]),
        ("7", ["+7", "-7"]),
        ("&", ["+shift", "+7", "-7", "-shift"]),
        ('"', ["+shift", "+apostrophe", "-apostrophe", "-shift"]),
        ("|", ["+shift", "+backslash", "-backslash", "-shift"]),
        ("\n", ["+ret", "-ret"]),
        (" ", ["+spc", "-spc"]),
    ],
)
def test_a_character_is_typed_as_on_an_american_keyboard(character: str, strokes: list[str]) -> None:
    assert [pressed(stroke) for stroke in keys.text_strokes(character)] == [strokes]


def test_every_printable_character_can_be_typed_and_each_is_another_stroke() -> None:
    printable = "".join(map(chr, range(32, 127)))
    strokes = {tuple(pressed(stroke)) for stroke in keys.text_strokes(printable)}
    assert len(strokes) == len(printable)


@pytest.mark.parametrize(
    ("words", "strokes"),
    [
        ("enter", ["+ret", "-ret"]),
        ("ctrl-alt-Delete", ["+ctrl", "+alt", "+delete", "-delete", "-alt", "-ctrl"]),
        ("-", ["+minus", "-minus"]),
        ("shift-f10", ["+shift", "+f10", "-f10", "-shift"]),
    ],
)
def test_keys_are_held_together(words: str, strokes: list[str]) -> None:
    assert pressed(keys.chord(words)) == strokes


@pytest.mark.parametrize("wrong", ["hyper-a", "ctrl-", "", "F13", "ä"])
def test_an_unknown_key_is_refused(wrong: str) -> None:
    with pytest.raises(keys.UnknownKey):
        keys.chord(wrong)


def test_text_is_refused_before_any_of_it_is_typed() -> None:
    with pytest.raises(keys.UnknownKey, match="ß"):
        keys.text_strokes("Straße")


def test_places_go_from_one_corner_to_the_other() -> None:
    assert [event["data"]["value"] for event in keys.pointer(0, 1)] == [0, 0x7FFF]
    for x, y in ((-0.1, 0), (0, 1.1), (float("nan"), 0)):
        with pytest.raises(InvalidArgument):
            keys.pointer(x, y)
    with pytest.raises(InvalidArgument, match="thumb"):
        keys.click("thumb")
