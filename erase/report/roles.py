"""The page's part on further roles: did the unerased model draw what they ask for, and in which languages."""

from __future__ import annotations

from markupsafe import Markup

from erase.evaluation.findings import DRAWN
from erase.report.plots import label
from erase.report.schema import Report
from erase.report.template import filled

TITLES = {
    "forget_synonym_seen": "Common synonyms of it",
    "forget_synonym_rare": "Rare synonyms of it",
    "forget_description": "Descriptions of it",
    "forget_super": "The family that it belongs to",
    "forget_lang": "Its name in other languages",
    "compose": "It beside another thing",
    "in_prompt": "Another thing, with it beside",
}
TEMPLATE = """
<section><h2>Further roles</h2><p class="soft small">Nothing can be erased, or kept, that the model never drew on such
prompts. A role counts only if the unerased model drew what is asked for in {{ least }} % of its pictures.</p>
<table class="facts"><tbody>{% for row in rows %}<tr><th scope="row">{{ row.title }}</th><td>{{ row.score }}:
drawn before in {{ row.before }}&nbsp;% of {{ row.n }}. {% if row.drawn %}It counts.{% else %}
<strong class="bad">Says nothing here.</strong>{% endif %}
{% if row.languages %} Asked in {{ row.languages }}.{% endif %}</td></tr>{% endfor %}</tbody>
</table></section>
"""


def roles_section(report: Report) -> Markup:
    """The section as HTML, every value escaped; "" where the report has no further roles."""
    found = report.findings.roles if report.findings else []
    if not found:
        return Markup("")
    rows = [
        {
            "title": TITLES.get(entry.role, entry.role.replace("_", " ")),
            "score": label(entry.name),
            "before": f"{100 * entry.before:.1f}",
            "n": entry.n,
            "drawn": entry.drawn,
            "languages": ", ".join(entry.languages),
        }
        for entry in found
    ]
    return Markup(filled(TEMPLATE, rows=rows, least=f"{100 * DRAWN:.0f}"))
