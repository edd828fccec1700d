"""The look of report.html: its style sheet and its template. All values are escaped by Jinja."""

CSS = """
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #22252a; --soft: #5d636d; --faint: #c9c6c0; --card: #fff;
  --good: #1d6b43; --bad: #a8331f; --accent: #c2571a; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e4e4e0; --soft: #a0a5ae; --faint: #3d4148;
  --card: #1e2126; --good: #6fcf9a; --bad: #f08d78; --accent: #e8935c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: clamp(1.6rem, 5vw, 2.3rem); line-height: 1.15; margin: 0 0 .6rem; letter-spacing: -.015em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .35rem; }
h3 { font-size: .95rem; font-weight: 600; margin: 1.4rem 0 .6rem; }
p { margin: .35rem 0; max-width: 44rem; } .soft { color: var(--soft); } small, .small { font-size: .84rem; }
.kicker { color: var(--soft); font-size: .84rem; margin-bottom: .5rem; overflow-wrap: anywhere; }
.lead { font-size: 1.08rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .9rem; margin: 1.6rem 0 0; }
.tile { background: var(--card); border: 1px solid var(--faint); border-radius: 10px; padding: .85rem 1rem; }
.tile b { display: block; font-size: 1.35rem; white-space: nowrap; font-weight: 600;
  line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile i { font-style: normal; color: var(--soft); font-weight: 400; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(13.5rem, 1fr)); gap: .9rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--faint); border-radius: 10px; padding: .7rem;
  display: flex; flex-direction: column; }
figcaption { font-size: .84rem; color: var(--soft); line-height: 1.4; margin-bottom: .6rem; overflow-wrap: anywhere; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem; margin-top: auto; } .two div { min-width: 0; }
.two img { width: 100%; display: block; border-radius: 6px; } .tiny { image-rendering: pixelated; }
.mark { display: block; font-size: .84rem; margin-top: .3rem; overflow-wrap: anywhere; line-height: 1.35; }
.good { color: var(--good); } .bad { color: var(--bad); } .when { color: var(--soft); font-size: .75rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin-top: .6rem; }
th, td { text-align: left; padding: .5rem .75rem .5rem 0; border-bottom: 1px solid var(--faint); vertical-align: top; }
thead th { font-size: .84rem; color: var(--soft); font-weight: 500; } tbody th { font-weight: 500; }
td small { color: var(--soft); display: block; white-space: nowrap; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem;
  align-items: start; } .charts svg { width: 100%; height: auto; display: block; max-width: 36rem; }
svg text { font-family: inherit !important; }
details { border-top: 1px solid var(--faint); padding: .7rem 0; }
details:last-of-type { border-bottom: 1px solid var(--faint); }
.pairs + details { margin-top: 1rem; }
summary { cursor: pointer; font-weight: 500; } summary:focus-visible { outline: 2px solid var(--accent); }
pre { overflow-x: auto; font: .84rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; margin: .6rem 0 .2rem; }
.facts th { width: 12rem; color: var(--soft); font-weight: 400; } .facts td { overflow-wrap: anywhere; }
@media (max-width: 620px) {
  main { padding-top: 1.5rem; }
  .scores thead { position: absolute; left: -9999px; } .scores tr { display: grid; padding: .6rem 0;
    grid-template-columns: repeat(3, 1fr); border-bottom: 1px solid var(--faint); }
  .scores th, .scores td { border: 0; padding: .1rem 0; } .scores tbody th { grid-column: 1 / -1; }
  .scores td::before { content: attr(data-label); display: block; color: var(--soft); font-size: .75rem; }
  .scores td.n { grid-column: 1 / -1; font-size: .84rem; color: var(--soft); }
  .scores td.n::before { content: "pictures: "; display: inline; }
  .scores td small { white-space: normal; } .facts th { width: 7.5rem; }
}
@media print { figure, .tile { break-inside: avoid; } }
"""

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ css }}</style></head>
<body><main>
<header>
<p class="kicker">{{ kicker }}</p>
<h1>{{ headline }}</h1>
{% for line in lead %}<p class="lead">{{ line }}</p>{% endfor %}
{% if tiles %}<div class="tiles">{% for tile in tiles %}
<div class="tile">{{ tile.label }}<b><i>{{ tile.before }} →</i> {{ tile.after }}</b>
<small class="soft">{{ tile.note }}</small></div>{% endfor %}</div>{% endif %}
</header>
{% if groups %}<section><h2>Before and after</h2>
<p class="soft small">Same prompt, same seed, same noise.{% if tables %} Under each picture: what the judge sees in it,
and whether that is what one hopes for (✓) or not (✕).{% endif %} The pictures were chosen by a fixed rule, not by
hand.</p>
{% for group in groups %}<h3>{{ group.title }}</h3><div class="pairs">{% for pair in group.pairs %}
<figure><figcaption>{{ pair.prompt }}</figcaption><div class="two">{% for side in pair.sides %}
<div>
{{ picture(side.data, side.when + ": " + pair.prompt, side.tiny) }}
{{ mark(side.when, side.good, side.answer) }}</div>{% endfor %}</div></figure>{% endfor %}</div>{% endfor %}</section>
{% endif %}
{% if tables %}<section><h2>Scores</h2><p class="soft small">Value and 95 % interval. The last column compares the
same prompts and seeds pair by pair.</p>{% for name, rows in tables %}{% if name %}<h3>{{ name }}</h3>{% endif %}
<table class="scores"><thead><tr><th>{{ "Concept" if name else "Score" }}</th><th>Before</th><th>After</th>
<th>Change</th><th>Pictures</th></tr></thead>
<tbody>{% for row in rows %}<tr><th scope="row">{{ row.label }} <small class="soft">({{ row.wish }})</small></th>
{% for cell in row.cells %}<td data-label="{{ cell.label }}">{{ cell.value }}<small>{{ cell.range }}</small></td>
{% endfor %}<td class="n" data-label="pictures">{{ row.n }}</td></tr>{% endfor %}</tbody></table>{% endfor %}</section>
{% else %}<section><h2>Scores</h2><p>{{ unjudged }}</p></section>{% endif %}
{{ roles }}
{{ retention }}
{{ worst }}
{{ gold }}
{% if tables or losses_svg %}<section><h2>Figures</h2><div class="charts">
{% if tables %}<div>{{ scores_svg }}</div>{% endif %}
{% if losses_svg %}<div>{{ losses_svg }}</div>{% endif %}</div></section>{% endif %}
{{ attacks }}
{% if guards %}<section><h2>Did the run do anything?</h2><table class="facts"><tbody>{% for key, value in guards %}
<tr><th scope="row">{{ key }}</th><td>{{ value }}</td></tr>{% endfor %}</tbody></table></section>{% endif %}
<section><h2>Limits</h2>{% for line in limits %}<p class="soft">{{ line }}</p>{% endfor %}</section>
<section><h2>How it was made</h2>
<details><summary>Configuration</summary><pre>{{ config }}</pre></details>
{% for name, facts in folded %}{% if facts %}<details><summary>{{ name }}</summary><table class="facts"><tbody>
{% for key, value in facts %}<tr><th scope="row">{{ key }}</th><td>{{ value }}</td></tr>{% endfor %}</tbody></table>
</details>{% endif %}{% endfor %}</section>
</main></body></html>
"""
