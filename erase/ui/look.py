"""How the UI looks: one theme for light and dark, a style sheet, and the few lines of JavaScript.

Fonts are the system's, so that nothing is asked of the network.
"""

from __future__ import annotations

import gradio as gr

ACCENT = gr.themes.Color(
    name="ember",
    c50="#fdf4ee",
    c100="#fae3d4",
    c200="#f3c4a6",
    c300="#eb9f72",
    c400="#dd7a43",
    c500="#c2571a",
    c600="#b04c15",
    c700="#933d10",
    c800="#74300d",
    c900="#57240b",
    c950="#3a1807",
)
SYSTEM = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace")

CSS = """
.gradio-container { --good: #1d6b43; --bad: #a8331f; --warm: #c2571a; --cool: #3b7ea1; --grey: #6b8fb5;
  --violet: #7a6bb0; --soft: #5d636d; --faint: #d6d3cd; max-width: min(78rem, 100%) !important;
  width: 100% !important; min-width: 0; margin: 0 auto; box-sizing: border-box; }
.gradio-container > main, .gradio-container .wrap, #tabs { width: 100%; }
.dark .gradio-container, .gradio-container.dark { --good: #6fcf9a; --bad: #f08d78; --warm: #e8935c; --cool: #7cb6d4;
  --grey: #93b1d1; --violet: #b0a4dc; --soft: #a8adb6; --faint: #43474f; }
#top h1 { font-size: 1.25rem; font-weight: 650; letter-spacing: -.01em; margin: 0; }
#top p { margin: .1rem 0 0; color: var(--soft); font-size: .88rem; }
.gradio-container.dark, .dark .gradio-container { --color-accent: #e8935c; }
.gradio-container input[role=combobox] { padding-right: 1.7rem; text-overflow: ellipsis; }
.note { color: var(--soft); font-size: .88rem; margin: 0; } .bad { color: var(--bad); } .good { color: var(--good); }
.problem { color: var(--bad); font-size: .9rem; margin: 0; white-space: pre-line; overflow-wrap: anywhere; }
.job h2 { font-size: 1rem; font-weight: 600; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.job .facts { color: var(--soft); font-size: .88rem; font-variant-numeric: tabular-nums; margin: .35rem 0 0; }
.track { height: .6rem; border-radius: .3rem; background: var(--faint); overflow: hidden; }
.track i { display: block; height: 100%; background: var(--warm); transition: width .4s linear; }
.state { display: inline-block; border: 1px solid currentColor; border-radius: 1rem; padding: 0 .55rem;
  font-size: .8rem; line-height: 1.45; color: var(--soft); white-space: nowrap; font-weight: 400; }
.state.running, .state.stopping { color: var(--warm); } .state.done { color: var(--good); }
.state.failed { color: var(--bad); }
.chart { margin: 0 0 .6rem; } .chart svg { width: 100%; max-width: 32rem; height: auto; display: block; }
.chart figcaption { font-size: .84rem; color: var(--soft); margin: 0 0 .25rem; }
.chart text { fill: currentColor; font-size: 11px; font-family: inherit; } .chart .axis { stroke: var(--faint); }
.tablewrap { overflow-x: auto; }
.tablewrap table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
.tablewrap :is(table, thead, tbody, tr) { border: 0 !important; }
.tablewrap caption { text-align: left; font-weight: 600; padding: .4rem 0; }
.tablewrap th, .tablewrap td { text-align: left; padding: .4rem .8rem .4rem 0; border: 0;
  border-bottom: 1px solid var(--faint); vertical-align: top; background: none; }
.tablewrap thead th { color: var(--soft); font-weight: 500; font-size: .82rem; }
.tablewrap tbody th { font-weight: 500; }
.tablewrap small { color: var(--soft); display: block; white-space: nowrap; font-size: .8rem; }
.tablewrap tr[aria-selected=true] { box-shadow: inset 3px 0 var(--warm); background: var(--background-fill-secondary); }
.tablewrap tr[aria-selected=true] th { padding-left: .6rem; }
.pick { font: inherit; color: inherit; background: none; border: 0; padding: .1rem 0; cursor: pointer; text-align: left;
  text-decoration: underline; text-decoration-color: var(--faint); text-underline-offset: .2em;
  overflow-wrap: anywhere; }
.pick:hover { text-decoration-color: currentColor; }
.pick:focus-visible, .gradio-container button:focus-visible, summary:focus-visible { outline: 2px solid var(--warm);
  outline-offset: 2px; }
.bars td.bar { min-width: 9rem; width: 60%; } .bars .lane { position: relative; height: 1.15rem; margin: .1rem 0; }
.bars .lane i { position: absolute; left: 0; top: .2rem; bottom: .2rem; background: var(--grey); border-radius: 2px; }
.bars .lane.after i { background: var(--warm); }
.bars .lane b { position: absolute; top: .5rem; height: .15rem; background: currentColor; opacity: .75; }
.verdict h2 { font-size: 1.2rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.verdict p { margin: .15rem 0; max-width: 46rem; }
.small-pictures img { image-rendering: pixelated; }
.sensitive img { filter: blur(28px) saturate(.4); } .sensitive { overflow: hidden; }
.gradio-container #heat-map :is(.image-container, .image-frame, img), .gradio-container #preview img { width: 100%; }
.gradio-container .pairs .caption-label { position: static; display: block; max-width: none; white-space: normal;
  text-align: left;
  background: none; border: 0; padding: .3rem .1rem 0; font-size: .8rem; color: var(--soft); line-height: 1.35; }
.gradio-container .pairs .thumbnail-item { height: auto; aspect-ratio: auto; border: 0; background: none; padding: 0; }
.gradio-container .pairs :is(.grid-wrap, .gallery-container) { min-height: 0; max-height: none; }
.gradio-container .pairs .grid-container { grid-auto-rows: auto; align-items: start; }
h4 { font-size: .95rem; font-weight: 600; margin: .6rem 0 .2rem; }
#command textarea, #yaml { font-family: var(--font-mono); font-size: .84rem; }
#delete-ask { border-left: 3px solid var(--bad); padding-left: .8rem; }
@media (max-width: 640px) {
  /* All four pages in one row: in gradio's overflow menu two of them are hard to find. */
  #tabs .tab-container button { padding-left: 8px; padding-right: 8px; font-size: 14px; }
  .gradio-container, .gradio-container > main { padding: .4rem !important; }
  footer .divider { display: none; }
  .pairs .grid-container { grid-template-columns: 1fr 1fr !important; }
  .stack thead { position: absolute; left: -9999px; }
  .stack tr { display: grid; grid-template-columns: repeat(3, 1fr); padding: .5rem 0;
    border-bottom: 1px solid var(--faint); }
  .stack th, .stack td { border: 0 !important; padding: .1rem .4rem .1rem 0 !important; }
  .stack tbody th { grid-column: 1 / -1; }
  .stack td::before { content: attr(data-label); display: block; color: var(--soft); font-size: .76rem; }
  .stack small { white-space: normal; }
  .stack tr[aria-selected=true] { padding-left: .6rem; }
}
@media (prefers-reduced-motion: reduce) { .track i { transition: none; } }
"""

# A click on a run's name tells the server its name and nothing else. Its rows are drawn anew, so the table listens.
PICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-run]');
  if (button) trigger('select', {value: button.dataset.run, index: 0});
});
"""

# The run of this page goes into its address, so that a reload, or the address on another machine, shows it again.
REMEMBER = """
(name) => {
  const here = new URL(window.location);
  if (name) here.searchParams.set('run', name); else here.searchParams.delete('run');
  window.history.replaceState(null, '', here);
  if (name) document.getElementById('job-panel')?.scrollIntoView({block: 'nearest'});
}
"""


def theme() -> gr.themes.Base:
    """A quiet theme: warm greys, one accent for what acts, small radii, tight spacing."""
    return gr.themes.Base(
        primary_hue=ACCENT,
        secondary_hue="stone",
        neutral_hue="stone",
        spacing_size="sm",
        radius_size="sm",
        text_size="md",
        font=SYSTEM,
        font_mono=MONO,
    ).set(
        body_background_fill="#fbfaf8",
        body_background_fill_dark="#16181c",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1e2126",
        background_fill_secondary="#f4f2ee",
        background_fill_secondary_dark="#23272d",
        input_background_fill="#ffffff",
        input_background_fill_dark="#1a1d21",
        border_color_primary="#dedbd5",
        border_color_primary_dark="#3d4148",
        block_border_width="1px",
        block_label_text_size="*text_sm",
        button_primary_background_fill="*primary_500",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover="*primary_600",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_transition="none",
        input_border_width="1px",
        input_border_color="#dedbd5",
        input_border_color_dark="#3d4148",
        input_padding="*spacing_md",
    )
