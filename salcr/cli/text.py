"""Text on its way to a terminal."""


def printable(text: str) -> str:
    """``text`` with what a terminal would obey or cannot show, which file names may hold, written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
