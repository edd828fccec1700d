"""Templates to HTML. Every value is escaped, and pictures look alike on all pages."""

from __future__ import annotations

from typing import Any

from jinja2 import DictLoader, Environment

# `picture`: an image, or words where the file is gone. `mark`: what the judge sees in it, and whether that is hoped
# for; `good` None: there was no judge.
PICTURES = """{% macro picture(data, alt, tiny, lazy=false) %}{% if data %}
<img src="{{ data }}" alt="{{ alt }}"{% if lazy %} loading="lazy"{% endif %}{% if tiny %} class="tiny"{% endif %}>
{% else %}<span class="soft small">picture not kept</span>{% endif %}{% endmacro %}
{% macro mark(when, good, seen) %}<span class="mark {{ '' if good is none else 'good' if good else 'bad' }}">
<span class="when">{{ when }}</span>{% if good is not none %}<br>
<span aria-label="{{ 'as hoped' if good else 'not as hoped' }}">{{ '✓' if good else '✕' }}</span>
{{ seen }}{% endif %}</span>{% endmacro %}"""

_ENVIRONMENT = Environment(loader=DictLoader({"pictures": PICTURES}), autoescape=True, trim_blocks=True)


def filled(template: str, **values: Any) -> str:
    """The template, which may use the macros `picture` and `mark`, with these values."""
    return _ENVIRONMENT.from_string("{% from 'pictures' import picture, mark %}" + template).render(values)
