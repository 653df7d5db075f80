"""Random damage to the bytes of a file."""

import io
import random
import zipfile
import zlib
from collections.abc import Sequence

HEAD = 64
"""Bytes at the front that hold most formats' lengths, sizes and types."""
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def mutate(content: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    """One to four kinds of damage, one after the other; ``others`` are sound files of the other kinds."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        content = draw.choice(_DAMAGES)(content, draw, others)
    return content


def mutate_in_zip(content: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    """:func:`mutate` of one file in the archive, mostly of a pickle; the archive's checksums fit again."""
    if draw.random() < 0.3:
        return mutate(content, draw, others)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in entries if name.endswith(".pkl")]
    chosen = draw.choice(pickles if pickles and draw.random() < 0.7 else list(entries))
    entries[chosen] = mutate(entries[chosen], draw, others)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, entry in entries.items():
            archive.writestr(name, entry)
    return packed.getvalue()


def mutate_in_png(content: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    """:func:`mutate` of what one chunk holds, compressed where it was; lengths and checksums fit again."""
    if draw.random() < 0.3:
        return mutate(content, draw, others)
    chunks, place = [], 8
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    chosen = draw.randrange(len(chunks))
    kind, payload = chunks[chosen]
    packed = kind == b"IDAT" and draw.random() < 0.7
    payload = mutate(zlib.decompress(payload) if packed else payload, draw, others)
    chunks[chosen] = kind, zlib.compress(payload) if packed else payload
    return content[:8] + b"".join(
        len(payload).to_bytes(4, "big") + kind + payload + zlib.crc32(kind + payload).to_bytes(4, "big")
        for kind, payload in chunks
    )


def _flip(content, draw, others):
    """Flip single bits anywhere."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8, 64)) if changed else 0):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _flip_head(content, draw, others):
    return _flip(content[:HEAD], draw, others) + content[HEAD:]


def _write_number(content, draw, others):
    """Overwrite 1, 2, 4 or 8 bytes with an extreme number of either byte order, at the front or anywhere."""
    size = draw.choice((1, 2, 4, 8))
    end = max(1, min(len(content), HEAD) if draw.random() < 0.5 else len(content))
    place = draw.randrange(end)
    number = (draw.choice(EXTREMES) & (1 << 8 * size) - 1).to_bytes(size, draw.choice(("little", "big")))
    return content[:place] + number + content[place + size :]


def _write_digits(content, draw, others):
    """Replace a run of digits, where the file has text, by another number."""
    places = [i for i in range(len(content)) if content[i : i + 1].isdigit()]
    if not places:
        return _flip(content, draw, others)
    place = draw.choice(places)
    number = draw.choice((b"0", b"-1", b"1e999", b"nan", b"99999999999999999999", b"9" * 5000))
    return content[:place] + number + content[place + 1 :]


def _truncate(content, draw, others):
    return content[: draw.randrange(len(content) + 1)]


def _cut_out(content, draw, others):
    start, stop = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[stop:]


def _repeat(content, draw, others):
    """Insert a piece of the file at another place of it."""
    start, stop, place = draw.randrange(len(content) + 1), draw.randrange(len(content) + 1), _place(content, draw)
    return content[:place] + content[start:stop] * draw.choice((1, 2, 100)) + content[place:]


def _splice(content, draw, others):
    """The front of one file and the end of another."""
    other = draw.choice(others) if others else content
    return content[: _place(content, draw)] + other[_place(other, draw) :]


def _swap_head(content, draw, others):
    """The head of another kind of file."""
    other = draw.choice(others) if others else b""
    size = draw.choice((4, 8, 16, HEAD))
    return other[:size] + content[size:]


def _insert_noise(content, draw, others):
    place = _place(content, draw)
    return content[:place] + draw.randbytes(draw.choice((1, 3, 100, 5000))) + content[place:]


def _place(content, draw):
    return draw.randrange(len(content) + 1)


_DAMAGES = (
    *(_flip, _flip_head, _write_number, _write_digits, _truncate),
    *(_cut_out, _repeat, _splice, _swap_head, _insert_noise),
)
