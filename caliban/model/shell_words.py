"""Commands as text that people read, and paste into a shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

# How some letters are written within $'...', where some bash takes a ! for its history.
_NAMED = {
    "\n": "\\n",
    "\t": "\\t",
    "\r": "\\r",
    "\x1b": "\\e",
    "\\": "\\\\",
    "'": "\\'",
    "!": "\\x21",
}


def join(words: Iterable[str]) -> str:
    """The words of a command."""
    return " ".join(map(quote, words))


def quote(word: str) -> str:
    """A word as bash and zsh take it, on one line and without what would steer a terminal."""
    if word.isprintable():
        # A bare =word is the path of a program to zsh.
        return f"'{word}'" if word.startswith("=") and "'" not in word else shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(letter: str) -> str:
    """A letter within $'...': itself, if it can be read."""
    if letter in _NAMED:
        return _NAMED[letter]
    if letter.isprintable():
        return letter
    # As bytes, so that the shell's locale makes no difference.
    try:
        content = letter.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half of a letter of JSON, which no program can be given
        content = letter.encode(errors="surrogatepass")
    return "".join(f"\\x{each:02x}" for each in content)
