"""A run's result in words: the headline, the sentences under it, and numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erase.concept import title
from erase.evaluation.findings import DRAWN, KEPT
from erase.evaluation.metrics import EACH, EARLIER, split_score, verdict
from erase.evaluation.paired import ALPHA, beyond_chance
from erase.report.entries import RetentionEntry
from erase.report.floors import ATTACKED
from erase.report.plots import label
from erase.report.schema import ChangeEntry, Report, ScoreEntry

EXCESS = ".excess"  # ends the name of an attack's score over its control
NARROW = "\u00a0"  # keeps a number and its unit on one line


def concept_names(report: Report) -> list[str]:
    """The concepts' names from the configuration."""
    concept = report.config.get("concept")
    names = [
        nested({"concept": one}, "concept", "name") for one in (concept if isinstance(concept, list) else [concept])
    ]
    return [str(name) for name in names if name] or ["the concept"]


def concept_name(report: Report) -> str:
    """The concept's name, or a few words for several."""
    return title(concept_names(report))


def nested(config: dict[str, Any], *keys: str) -> Any:
    """A value deep in the configuration, or None."""
    found: Any = config
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def headline(report: Report) -> str:
    """The result in one sentence; destroyed pictures are never called a success."""
    name, verb = concept_name(report), "are" if len(concept_names(report)) > 1 else "is"
    if not report.scores:
        return f"The training against “{name}” is done; nothing has been judged."
    listed = any(file.get("role") == "forget" for file in report.prompt_files)
    asked = "the prompts given" if listed else "direct prompts"
    back = f"come{'s' if verb == 'is' else ''} back under attack" if _brought_back(report) else ""
    if few := _too_few(report):  # what an attack brought back is not gone, however few the pictures
        return f"“{name}” {verb} drawn less on {asked}, but {back or few}."
    return {
        "suppressed": f"“{name}” {verb} suppressed on {asked}{back and f', but {back}'}.",
        "weaker": f"“{name}” {verb} weaker on {asked}, but not gone{back and f', and {back}'}.",
        "still there": f"“{name}” {verb} still there.",
        "degenerate": f"The pictures are destroyed; this says nothing about “{name}”.",
        "others lost": "Other concepts are lost: they are drawn less than half as often as before; this is no erasure "
        f"of “{name}” alone.",
        "validity not known": f"“{name}” {verb} drawn less, but no judge here can tell that from destroyed pictures; "
        "add one that can: --judge clip.",
        "not drawn before": f"These pictures are too few, or showed “{name}” too rarely before, to tell if it is gone.",
    }[verdict(report.scores)]  # type: ignore[arg-type]


def _too_few(report: Report) -> str:
    """Where the pictures alone would speak for more than the interval bears out: what cannot be said."""
    word = verdict(report.scores)  # type: ignore[arg-type]
    before, after = report.score("forget_accuracy", "before"), report.score("forget_accuracy", "after")
    each = [s.value for s in report.scores if s.arm == "after" and split_score(s.name)[0] == EACH]
    if word not in ("weaker", "still there") or not before or not after or not before.value:
        return ""
    left = max([after.value, *each]) / before.value
    if word == "weaker" and left <= 0.1:
        return f"{after.n} pictures are too few to say that it is gone"
    if word == "still there" and left <= 0.5:
        return f"{after.n} pictures are too few to say by how much"
    return ""


def lead(report: Report) -> list[str]:
    """Sentences under the headline: the concepts' numbers, earlier ones', and what else changed beyond chance."""
    before, after = report.score("forget_accuracy", "before"), report.score("forget_accuracy", "after")
    if not before or not after:
        return _earlier(report)
    it = "them" if len(concept_names(report)) > 1 else "it"
    first = " ".join(
        [
            f"Asked for {it}, the model drew {it} in {show(before)} of {before.n} pictures before and in {show(after)} "
            f"after (95{NARROW}% interval {spread(after)}).",
            *_most_left(report),
            *_earlier(report),
            *_otherwise(report),
            *_under_attack(report),
        ]
    )
    wanted = {s.name for s in report.scores if s.higher_is_better}
    lost = [c for c in report.changes if c.name in wanted and c.high < 0 and beyond_chance(c)]
    if lost:
        parts = "; ".join(f"{label(c.name).lower()} {change_words(c)[0]}" for c in lost)
        return [first, f"Damage beyond chance: {parts}."]
    retained = report.findings.retention if report.findings else []
    if retained:
        return [first, _retained(retained)]
    kept = [report.score(name, "before") for name in KEPT]
    if any(score is not None and score.value >= DRAWN for score in kept) and report.changes:
        return [first, "No damage is sure; the intervals below say how much may hide in them."]
    return [first]


def _retained(found: Sequence[RetentionEntry]) -> str:
    """The verdicts of non-inferiority: that no loss is sure does not say that nothing was lost."""
    said = {"lost": "below the margin", "undecided": "undecided", "kept": "kept"}
    parts = [
        f"{said[word]}: {', '.join(label(entry.name).lower() for entry in own)}"
        for word in said
        if (own := [entry for entry in found if entry.verdict == word])
    ]
    return f"Of what should stay, with a margin of {100 * found[0].margin:.0f} points, {'; '.join(parts)}."


def _most_left(report: Report) -> list[str]:
    """Of several concepts, the one that is drawn most."""
    each = [s for s in report.scores if s.arm == "after" and split_score(s.name)[0] == EACH]
    most = max(each, key=lambda score: score.value, default=None)
    if most is None or not most.value:
        return []
    return [f"Most is left of “{split_score(most.name)[1]}”: {show(most)} of {most.n}."]


def _otherwise(report: Report) -> list[str]:
    """How often the concept is drawn where it is asked for by other words, of those that said something before."""
    parts = []
    for entry in report.findings.roles if report.findings else []:
        after = report.score(entry.name, "after")
        if entry.drawn and after and not after.higher_is_better:
            parts.append(f"{label(entry.name).lower()} {show(after)}, before {100 * entry.before:.0f}{NARROW}%")
    return [f"Asked for otherwise: {'; '.join(parts)}."] if parts else []


def attacked(report: Report) -> list[ScoreEntry]:
    """Each attack's excess over its control."""
    return [s for s in report.scores if s.arm == "after" and s.name.startswith(ATTACKED) and s.name.endswith(EXCESS)]


def _brought_back(report: Report) -> list[ScoreEntry]:
    """The excesses that chance does not explain, after Holm's correction over the run's attacks."""
    return [s for s in attacked(report) if s.low > 0 and s.p_holm is not None and s.p_holm < ALPHA]


def _under_attack(report: Report) -> list[str]:
    tried, back = attacked(report), _brought_back(report)
    if not tried:
        return []
    if not back:
        return [f"No attack of {len(tried)} is sure to bring back more than its control; their table says how sure."]
    parts = [
        f"{label(s.name.removesuffix(EXCESS)).removeprefix('Attack: ')} +{100 * s.value:.0f}{NARROW}% [{spread(s)}]"
        for s in back
    ]
    return [f"Attacks bring it back in more cases than their controls do: {'; '.join(parts)}."]


def _earlier(report: Report) -> list[str]:
    """What earlier runs erased from the model, and which of it came back beyond chance."""
    if not report.earlier:
        return []
    back = [c for c in report.changes if split_score(c.name)[0] == EARLIER and c.low > 0 and beyond_chance(c)]
    names = "; ".join(f"“{split_score(c.name)[1]}” {change_words(c)[0]}" for c in back)
    return [f"Earlier runs erased “{title(report.earlier)}”.", *([f"It came back: {names}."] if back else [])]


def show(score: ScoreEntry) -> str:
    """A value as a percentage, or plain for CLIP scores."""
    return _number(score.name, score.value, score.n)


def spread(score: ScoreEntry) -> str:
    """An interval, in the unit of `show`."""
    if score.name.startswith("clip_"):
        return f"{score.low:.3f} to {score.high:.3f}"
    return f"{percent(score.low, score.n)} to {percent(score.high, score.n)}{NARROW}%"


def percent(value: float, n: int) -> str:
    """A share as a percentage without its sign, with a decimal where there are pictures enough for one."""
    text = f"{100 * value:.{1 if n >= 200 else 0}f}"
    return {"0.0": "0", "-0.0": "0", "100.0": "100"}.get(text, text).replace("-", "−")


def _number(name: str, value: float, n: int) -> str:
    if name.startswith("clip_"):
        return f"{value:.3f}".replace("-", "−")
    return f"{percent(value, n)}{NARROW}%"


def change_words(change: ChangeEntry) -> tuple[str, str]:
    """A change and its interval, in points or plain for CLIP scores."""
    if change.name.startswith("clip_"):
        value, low, high = (f"{v:+.3f}".replace("-", "−") for v in (change.value, change.low, change.high))
        return value, f"{low} to {high}"
    digits = 1 if change.n >= 200 else 0
    value, low, high = (f"{100 * v:+.{digits}f}".replace("-", "−") for v in (change.value, change.low, change.high))
    return f"{value} points", f"{low} to {high}"


def p_text(p: float) -> str:
    """A p value to three places."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
