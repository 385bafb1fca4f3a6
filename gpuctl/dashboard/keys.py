"""Keys by name, from the bytes that terminals send for them (xterm's, which all of them speak).

A letter is itself; others are `up down left right home end pgup pgdn enter esc tab backtab backspace`, `ctrl-u`. A
paste arrives whole, as `PASTE` and its text: words from a clipboard are no commands.
"""

import re

PASTE = "paste:"
_SEQUENCES = {
    "A": "up",
    "B": "down",
    "C": "right",
    "D": "left",
    "H": "home",
    "F": "end",
    "Z": "backtab",
    "1~": "home",
    "4~": "end",
    "5~": "pgup",
    "6~": "pgdn",
    "7~": "home",
    "8~": "end",
}
_CONTROLS = {"\r": "enter", "\n": "enter", "\t": "tab", "\x7f": "backspace", "\x08": "backspace"}
_SEQUENCE = re.compile(r"\x1b(?:O|\[)([0-9;]*[A-Za-z~])")
_PASTE_BEGINS = "\x1b[200~"
_PASTED = re.compile(r"\x1b\[200~(.*?)\x1b\[201~", re.DOTALL)


class Keys:
    """Makes keys of bytes; keeps the beginning of what has not arrived whole."""

    def __init__(self) -> None:
        self._held = b""

    @property
    def unfinished(self) -> bool:
        """Return whether an Escape arrived that may be the beginning of something; the rest of a paste does come."""
        return bool(self._held) and not self._held.startswith(_PASTE_BEGINS.encode())

    def feed(self, data: bytes, *, final: bool = False) -> list[str]:
        """Return the keys that are complete now; with `final`, a lone Escape is the key."""
        text = (self._held + data).decode(errors="ignore" if final else "surrogateescape")
        self._held = b""
        keys: list[str] = []
        at = 0
        while at < len(text):
            key, size = _one(text, at)
            if not size and not final:
                self._held = text[at:].encode(errors="surrogateescape")
                break
            if size:
                keys += [key] if key else []
                at += size
            else:
                keys.append("esc")
                at += 1
        return keys


def _one(text: str, at: int) -> tuple[str, int]:
    """Return the key at a place, "" for one without a name, and how long it is: 0 where it is not all there."""
    char = text[at]
    if char == "\x1b":
        return _escaped(text, at)
    if char in _CONTROLS:
        return _CONTROLS[char], 1
    if "\udc80" <= char <= "\udcff":  # part of a character, or none
        return "", 0 if len(text) - at < 4 else 1
    if char < " ":
        return f"ctrl-{chr(ord(char) + 96)}", 1
    return char, 1


def _escaped(text: str, at: int) -> tuple[str, int]:
    if text.startswith(_PASTE_BEGINS, at):
        pasted = _PASTED.match(text, at)
        return (PASTE + pasted[1], len(pasted[0])) if pasted else ("", 0)
    found = _SEQUENCE.match(text, at)
    if found:
        word = found[1]
        return _SEQUENCES.get(word) or _SEQUENCES.get(word[-1] if word[-1] != "~" else "", ""), len(found[0])
    rest = text[at + 1 : at + 2]
    if not rest or rest in "[O":
        return "", 0
    return "esc", 1
