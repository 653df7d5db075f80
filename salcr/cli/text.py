"""Text on its way to a terminal."""


def printable(text: str) -> str:
    """``text``, such as a file name, with escapes for the characters that a terminal would obey or cannot show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
