"""Keys and pointer of a guest as QEMU's input events (QEMU, qapi/ui.json, InputEvent). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tartlet.errors import InvalidArgument

Event = Mapping[str, Any]

_PLAIN: Final = {
    "\n": "ret", "\r": "ret", "\t": "tab", "\b": "backspace", "\x1b": "esc", " ": "spc", "-": "minus", "=": "equal",
    "[": "bracket_left", "]": "bracket_right", "\\": "backslash", ";": "semicolon", "'": "apostrophe",
    "`": "grave_accent", ",": "comma", ".": "dot", "/": "slash",
    **{letter: letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789"},
}  # fmt: skip
_SHIFTED: Final = dict(zip('!@#$%^&*()_+{}|:"~<>?', "1234567890-=[]\\;'`,./", strict=True))
_NAMES: Final = {
    "enter": "ret", "return": "ret", "escape": "esc", "space": "spc", "del": "delete", "ins": "insert",
    "pageup": "pgup", "pagedown": "pgdn", "super": "meta_l", "win": "meta_l", "cmd": "meta_l",
}  # fmt: skip
_OTHERS: Final = """
shift ctrl alt alt_r ctrl_r shift_r meta_l meta_r menu caps_lock num_lock scroll_lock insert delete home end pgup pgdn
up down left right print pause f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 f11 f12
"""
_KNOWN: Final = frozenset([*_PLAIN.values(), *_OTHERS.split()])
_AXIS: Final = 0x7FFF
"""The far end of an absolute axis."""
BUTTONS: Final = ("left", "middle", "right", "wheel-up", "wheel-down")


class UnknownKey(InvalidArgument):
    """A key this program has no name for."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"there is no key {key!r}", "keys are a single character, or f1, enter, esc, tab, ctrl, alt, …"
        )
        self.key = key


def text_strokes(text: str) -> list[list[Event]]:
    """The events that type `text` on an American keyboard, a list for each character. Raises UnknownKey."""
    return [chord_events([*(["shift"] if shifted else []), code]) for code, shifted in map(_character, text)]


def chord(words: str) -> list[Event]:
    """The events of keys held together, written as `ctrl-alt-delete`. Raises UnknownKey."""
    names = [words] if len(words) == 1 else words.split("-")
    return chord_events([_named(name) for name in names])


def chord_events(codes: Iterable[str]) -> list[Event]:
    """Keys pressed in their order and released in the reverse one; `codes` are QEMU's names."""
    held = list(codes)
    return [_key(code, down=True) for code in held] + [_key(code, down=False) for code in reversed(held)]


def pointer(x: float, y: float) -> list[Event]:
    """Move the pointer; `x` and `y` from 0 (left, top) to 1. Raises InvalidArgument."""
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise InvalidArgument(f"the screen has no place {x:g}, {y:g}", "places go from 0,0 (left, top) to 1,1")
    places = (("x", x), ("y", y))
    return [{"type": "abs", "data": {"axis": axis, "value": round(at * _AXIS)}} for axis, at in places]


def click(button: str) -> tuple[list[Event], list[Event]]:
    """Press and release of a button of the pointer, to be sent one after the other. Raises InvalidArgument."""
    if button not in BUTTONS:
        raise InvalidArgument(f"there is no button {button!r}", f"use one of {', '.join(BUTTONS)}")
    return [_button(button, down=True)], [_button(button, down=False)]


def _character(character: str) -> tuple[str, bool]:
    """QEMU's name of the key, and whether shift is held."""
    if character in _SHIFTED:
        return _PLAIN[_SHIFTED[character]], True
    lower = character.lower()
    if lower not in _PLAIN:
        raise UnknownKey(character)
    return _PLAIN[lower], lower != character


def _named(name: str) -> str:
    lower = name.lower()
    code = _PLAIN.get(lower) or _NAMES.get(lower, lower)
    if code not in _KNOWN:
        raise UnknownKey(name)
    return code


def _button(button: str, *, down: bool) -> Event:
    return {"type": "btn", "data": {"button": button, "down": down}}


def _key(code: str, *, down: bool) -> Event:
    return {"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": code}}}
