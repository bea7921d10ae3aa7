"""Fills the report's templates. Whatever users have written is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tuner.report import search_tables, tables
from tuner.report.sizes import size_text
from tuner.report.svg import STYLE

HERE = Path(__file__).parent


def fill(template: str, **values: Any) -> str:
    """A template of this folder with these values."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["size"] = size_text
    style = "".join(path.read_text(encoding="utf-8") for path in (HERE / "page.css", STYLE))
    # the style sheets are ours
    return environment.get_template(template).render(
        style=Markup(style), tables=tables, search_tables=search_tables, **values
    )
