"""Sphinx's settings: `make docs` builds the pages of this folder and the API reference from the docstrings."""

import salcr

project = "salcr"
author = "the salcr developers"
version = release = salcr.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 4  # links to headings, as on GitHub
html_theme = "furo"
html_title = f"salcr {version}"

nitpicky = True
nitpick_ignore_regex = [  # nothing is fetched from other projects' pages
    (r"py:.*", r"(torch|numpy|pathlib|os|signal|collections\.abc|annotated_types|pydantic|typer|PIL)\..*"),
    # type variables, and what pydantic shows of its fields
    (r"py:class", r"Module|Network|FieldInfo|NoneType|[GL][et]|\d.*|dict\[str|salcr\.nn\.batch_norm\.Network"),
    (r"py:.*", r"salcr\..*\._.*"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
