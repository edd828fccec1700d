"""Captions of scenes, from whole descriptions down to single words, and the tokenizer made for them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from erase.world.scenes import Scenes
from erase.world.vocabulary import COLOUR_NAMES, FAMILIES, OBJECTS, STYLES

TOKENS = 32
# Whole descriptions: object, style and colour, all said. {a}/{an} articles are put in by `_article`.
FULL = (
    "a {style} {object} on a {colour} background",
    "a {object} in {style} style on a {colour} background",
    "a {colour} background with a {style} {object}",
    "a {style} picture of a {object}, {colour} background",
    "{style} {object}, {colour}",
)
PARTIAL = (
    "a {style} {object}",
    "a {style} picture of a {object}",
    "a {object} in {style} style",
    "a picture of a {object}",
    "a {object}",
    "{object}",
    "a {object} on a {colour} background",
    "a picture in {style} style",
    "{style} style, {colour} background",
)
# Shares of the training captions: each common synonym, each rare one, superclass words, no caption.
COMMON, RARE, SUPERCLASS, EMPTY = 0.08, 0.03, 0.03, 0.10


def caption(template: str, thing: str, style: str, colour: str) -> str:
    """Fill a template and set the articles right."""
    text = template.format(object=thing, style=style, colour=colour)
    words = text.split(" ")
    for i, word in enumerate(words[:-1]):
        if word == "a" and words[i + 1][0] in "aeiou":
            words[i] = "an"
    return " ".join(words)


def draw_captions(scenes: Scenes, generator: torch.Generator, empty: float = EMPTY) -> list[str]:
    """A random caption for each scene, with the shares above."""
    rolls = torch.rand(len(scenes), 4, generator=generator).tolist()
    texts = []
    for i, (mood, word, style_word, form) in enumerate(rolls):
        if mood < empty:
            texts.append("")
            continue
        templates = FULL if mood < 0.75 else PARTIAL
        thing, style = OBJECTS[int(scenes.object[i])], STYLES[int(scenes.style[i])]
        texts.append(
            caption(
                templates[int(form * len(templates))],
                _pick(word, thing.name, thing.synonyms, thing.family),
                _pick(style_word, style.name, style.synonyms, None),
                COLOUR_NAMES[int(scenes.colour[i])],
            )
        )
    return texts


def _pick(roll: float, name: str, synonyms: tuple[str, ...], family: str | None) -> str:
    if roll < COMMON:
        return synonyms[0]
    if roll < COMMON + RARE:
        return synonyms[1]
    if family and roll < COMMON + RARE + SUPERCLASS:
        return family
    return name


def words() -> list[str]:
    """Every word that a caption can hold."""
    texts = [*FULL, *PARTIAL, *COLOUR_NAMES, *FAMILIES, "an"]
    for entry in (*OBJECTS, *STYLES):
        texts += [entry.name, *entry.synonyms]
    found = {w.strip("{},") for text in texts for w in text.split()}
    return sorted(found - {"object", "style}", "colour"} | {"style"})


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Train CLIP's byte-pair encoding on the captions' words; unseen words fall back to their letters.

    The vocabulary is CLIP's: 256 bytes, the same 256 ending a word, one entry a merge, then the two
    special tokens, the end of text last (which is where CLIP pools).
    """
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        min_frequency=1,
        show_progress=False,
    )
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), behavior="removed")
    learner.train_from_iterator(words(), trainer)
    merges = [tuple(m) for m in json.loads(learner.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*letters, *(c + "</w>" for c in letters)]
    entries += [a + b for a, b in merges if a + b not in entries]
    entries = [*dict.fromkeys(entries), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({e: i for i, e in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def encode(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids, padded and cut to the model's length: (N, 32)."""
    batch = tokenizer(
        texts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return batch.input_ids
