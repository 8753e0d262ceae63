"""The pages' templates: HTML beside this file, filled in by jinja2, which escapes the values."""

from __future__ import annotations

from importlib.resources import files
from typing import Any


def render(name: str, **values: Any) -> str:
    """The page of that name with its values; one that is missing is an error."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files("captioning.report")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda one: folder.joinpath(one).read_text("utf-8")),
    )
    return environment.get_template(name).render(**values)
