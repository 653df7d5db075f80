import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from salcr.retrieval import Hit, Ranking, page, write_rankings

HOSTILE = '/crops/<script>alert(1)</script>" onerror="x\' {{ 7*7 }}&amp;\udce9.png'


class Elements(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def written(tmp_path, indexed):
    day, night = (str(indexed / f"pictures/{side}/p1/a.png") for side in ("day", "night"))
    hits = (Hit(day, 0.98765, False, 0), Hit(HOSTILE, 0.5, True, 1))
    write_rankings(tmp_path / "new/page.html", [Ranking(night, True, hits)], title=HOSTILE, summary="2 of <3>")
    return (tmp_path / "new/page.html").read_text()


def test_the_page_shows_what_was_found(written, indexed):
    elements = Elements(written)
    assert all(text in elements.text for text in ("0.988", "0.500", "query, infrared", "2 of <3>", "cannot be read"))
    pictures = [attributes for tag, attributes in elements.found if tag == "img"]
    assert [picture["alt"] for picture in pictures] == [
        str(indexed / "pictures/night/p1/a.png"),
        str(indexed / "pictures/day/p1/a.png"),
    ]
    for picture in pictures:
        kind, _, content = picture["src"].partition(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == (16, 32)


def test_names_of_strangers_are_text(written):
    elements = Elements(written)
    assert not {tag for tag, _ in elements.found} & {"script", "iframe", "object", "link", "form", "svg"}
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert elements.text.count('<script>alert(1)</script>" onerror="x\' {{ 7*7 }}&amp;\\udce9.png') >= 2


def test_the_page_loads_nothing_and_fits_a_phone_and_the_dark(written):
    elements = Elements(written)
    links = [v for _, a in elements.found for name, v in a.items() if name in ("src", "href", "action", "srcset")]
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"url\(|@import|https?:", written)
    assert (
        "default-src 'none'" in written and "width=device-width" in written and "prefers-color-scheme: dark" in written
    )


def test_large_pictures_are_made_small(tmp_path):
    Image.radial_gradient("L").resize((2000, 900)).save(tmp_path / "a.png")
    content = page.thumbnail(str(tmp_path / "a.png")).partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (160, 72)


@pytest.mark.parametrize("content", [None, b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + 40 * b"\0"])
def test_a_picture_that_cannot_be_read_any_more_is_left_out(tmp_path, content):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    assert page.thumbnail(str(tmp_path / "a.png")) is None
