"""What stands between a prompt and the model where a run changed no weights: names struck out, or steered away from."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hiding:
    """Each of `words` is struck from a prompt, or becomes its anchor; `negative` is what guidance steers away from.

    Prompts are text: attacks on token embeddings pass it by, as they would pass by a filter in front of a service.
    """

    words: tuple[tuple[str, str], ...] = ()
    negative: str = ""

    def read(self, prompt: str) -> str:
        """What the model is given of a prompt. Whole words in any case; an article goes with the word it stands by."""
        for word, instead in self.words:
            pattern = rf"(?<!\w)(?:(an?|the)\s+)?{re.escape(word)}(?!\w)"
            prompt = re.sub(pattern, lambda found, new=instead: _with_article(found[1], new), prompt, flags=re.I)
        return " ".join(prompt.split())


def _with_article(article: str | None, words: str) -> str:
    """Words after the article that stood before others, which becomes "an" before a vowel; their own stays."""
    if not article or not words or re.match(r"(an?|the)\s", words, re.I):
        return words
    if article.lower() != "the":
        fit = "an" if words[0].lower() in "aeiou" else "a"
        article = fit if article[0].islower() else fit.capitalize()
    return f"{article} {words}"
