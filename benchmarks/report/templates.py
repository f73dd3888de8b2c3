"""The templates of reports, which lie next to this file; what is written into HTML is escaped."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)\s]+)\)")


def render(name: str, **content: Any) -> str:
    """The text of a template; a name that `content` lacks is an error."""
    return _environment().get_template(name).render(content)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["links"] = links
    return environment


def links(line: str) -> Markup:
    """Markdown's links as HTML's; all else is escaped."""
    pieces = []
    end = 0
    for found in LINK.finditer(line):
        pieces += [escape(line[end : found.start()]), Markup('<a href="{1}">{0}</a>').format(*found.groups())]
        end = found.end()
    return Markup("").join([*pieces, escape(line[end:])])
