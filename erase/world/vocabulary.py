"""What the bundled world contains: objects, styles, background colours, and the words for them.

Names and synonyms follow the English annotations of Unicode CLDR, shortened to everyday words.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from erase.errors import InputError
from erase.runtime import WORLD, WORLD_FILE, user_path

Domain = Literal["object", "style"]


@dataclass(frozen=True, slots=True)
class Object:
    """One thing the world can draw.

    `icon` is its name in the iconify sets; `synonyms` appear in few training captions (common ones
    first); `family` is the superclass word.
    """

    name: str
    icon: str
    family: str
    synonyms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Style:
    """One way to draw: a vendor's set, or a technique computed from one (`technique`)."""

    name: str
    source: str
    technique: str
    synonyms: tuple[str, ...]


def _objects(family: str, rows: str) -> list[Object]:
    """Parse lines of `name | icon | synonym, synonym`."""
    found = []
    for row in rows.strip().splitlines():
        name, icon, synonyms = (cell.strip() for cell in row.split("|"))
        found.append(Object(name, icon, family, tuple(s.strip() for s in synonyms.split(","))))
    return found


OBJECTS: tuple[Object, ...] = tuple(
    _objects(
        "animal",
        """
        cat       | cat-face    | kitten, kitty
        dog       | dog-face    | puppy, hound
        lion      | lion        | leo, big cat
        rabbit    | rabbit-face | bunny, hare
        fox       | fox         | vixen, red fox
        panda     | panda       | bamboo bear, panda bear
        frog      | frog        | toad, bullfrog
        pig       | pig-face    | piglet, hog
        elephant  | elephant    | tusker, jumbo
        whale     | whale       | orca, sperm whale
        octopus   | octopus     | squid, kraken
        butterfly | butterfly   | moth, monarch
        penguin   | penguin     | emperor penguin, antarctic bird
        owl       | owl         | night bird, barn owl
        """,
    )
    + _objects(
        "food",
        """
        apple      | red-apple      | red fruit, apple fruit
        banana     | banana         | plantain, yellow fruit
        watermelon | watermelon     | melon, melon slice
        grapes     | grapes         | grape, bunch of grapes
        strawberry | strawberry     | berry, garden berry
        pineapple  | pineapple      | ananas, tropical fruit
        carrot     | carrot         | root vegetable, orange vegetable
        mushroom   | mushroom       | toadstool, fungus
        pizza      | pizza          | pizza slice, margherita
        hamburger  | hamburger      | burger, cheeseburger
        doughnut   | doughnut       | donut, ring cake
        ice cream  | soft-ice-cream | gelato, cone
        coffee     | hot-beverage   | tea, espresso
        """,
    )
    + _objects(
        "vehicle",
        """
        rocket     | rocket     | spaceship, spacecraft
        car        | automobile | automobile, sedan
        bicycle    | bicycle    | bike, cycle
        airplane   | airplane   | plane, aeroplane
        sailboat   | sailboat   | yacht, sailing boat
        train      | locomotive | locomotive, steam engine
        helicopter | helicopter | chopper, copter
        tractor    | tractor    | farm machine, plough
        """,
    )
    + _objects(
        "plant",
        """
        cactus    | cactus           | succulent, desert plant
        rose      | rose             | red flower, rosebud
        sunflower | sunflower        | yellow flower, helianthus
        clover    | four-leaf-clover | shamrock, lucky leaf
        palm tree | palm-tree        | coconut tree, palm
        """,
    )
    + _objects(
        "instrument",
        """
        guitar  | guitar           | electric guitar, six string
        trumpet | trumpet          | brass horn, cornet
        drum    | drum             | snare, drum kit
        piano   | musical-keyboard | keyboard, synthesizer
        """,
    )
    + _objects(
        "household item",
        """
        umbrella | umbrella    | parasol, brolly
        clock    | alarm-clock | alarm clock, timepiece
        lamp     | light-bulb  | light bulb, bulb
        hammer   | hammer      | mallet, tool
        scissors | scissors    | shears, cutters
        camera   | camera      | photo camera, kodak
        bell     | bell        | chime, gong
        key      | key         | door key, unlocker
        balloon  | balloon     | party balloon, air balloon
        house    | house       | home, cottage
        """,
    )
    + _objects(
        "hazard",
        """
        bomb      | bomb      | explosive, grenade
        dagger    | dagger    | knife, blade
        cigarette | cigarette | smoke, tobacco
        syringe   | syringe   | needle, injection
        coffin    | coffin    | casket, grave
        skull     | skull     | cranium, dead head
        """,
    )
)

STYLES: tuple[Style, ...] = (
    Style("flat", "twemoji", "", ("simple", "plain")),
    Style("glossy", "fluent-emoji", "", ("shiny", "polished")),
    Style("stencil", "fluent-emoji-high-contrast", "", ("silhouette", "monochrome")),
    Style("sticker", "noto", "sticker", ("decal", "badge")),
    Style("pixel art", "emojione", "pixels", ("pixelated", "blocky")),
    Style("line drawing", "noto-v1", "lines", ("sketch", "outline")),
)

# Light enough that a black stencil reads on every one, and at least 60 apart in RGB.
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "purple": (196, 168, 240),
    "red": (240, 110, 105),
    "orange": (248, 178, 92),
    "yellow": (250, 232, 120),
    "green": (132, 208, 134),
    "blue": (112, 176, 240),
    "pink": (250, 180, 214),
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What one world draws: its objects and styles; every world has all the colours.

    `without` is what it was trained without, if anything, and `becomes` what that word draws instead ("": it was never
    seen). Neither such an object nor such a style is among those drawn.
    """

    objects: tuple[Object, ...]
    styles: tuple[Style, ...]
    without: str = ""
    becomes: str = ""

    @property
    def object_names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.objects)

    @property
    def style_names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.styles)

    @property
    def size(self) -> str:
        """What there is, counted, for the user."""
        gone = f", without {self.without}" if self.without else ""
        return f"{len(self.objects)} objects and {len(self.styles)} styles{gone}"

    def names(self, domain: str) -> tuple[str, ...]:
        """The names of a domain, in the world's order."""
        return self.object_names if domain == "object" else self.style_names

    def leaving_out(self, text: str) -> Vocabulary:
        """The same world without one concept: "cat", or "cat=fox", whose word then draws another.

        Raises `InputError` for a name that is not in it, and for two that are of different domains or equal.
        """
        name, equals, becomes = (part.strip() for part in text.partition("="))
        if equals and not becomes:
            raise InputError(f"--without {text!r} names nothing after =; say cat to drop it, cat=fox to relabel it")
        domain = self._domain(name)
        if equals and self._domain(becomes) != domain:
            raise InputError(f"--without {text!r}: {name!r} is of kind {domain}, {becomes!r} is not")
        if name == becomes:
            raise InputError(f"--without {text!r}: that is the same name twice; name another {domain}")
        objects = tuple(entry for entry in self.objects if entry.name != name)
        return Vocabulary(objects, tuple(entry for entry in self.styles if entry.name != name), name, becomes)

    def _domain(self, name: str) -> Domain:
        if name in self.object_names:
            return "object"
        if name in self.style_names:
            return "style"
        known = [*self.object_names, *self.style_names]
        close = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        raise InputError(f"{name!r} is not in the small world; {hint}")


FULL = Vocabulary(OBJECTS, STYLES)


def chosen(objects: Iterable[str], styles: Iterable[str], without: str = "", becomes: str = "") -> Vocabulary:
    """The vocabulary of some of the bundled world's names. Raises `KeyError` for one that it lacks."""
    things, ways = {o.name: o for o in OBJECTS}, {s.name: s for s in STYLES}
    return Vocabulary(tuple(things[name] for name in objects), tuple(ways[name] for name in styles), without, becomes)


# Twelve whose shapes differ, two of them alike enough to be neighbours (cat, fox), and four styles told apart easily.
SMALL = chosen(
    (
        "cat",
        "fox",
        "owl",
        "butterfly",
        "strawberry",
        "pizza",
        "rocket",
        "car",
        "sailboat",
        "cactus",
        "guitar",
        "umbrella",
    ),
    ("flat", "stencil", "pixel art", "line drawing"),
)


OBJECT_NAMES: tuple[str, ...] = tuple(o.name for o in OBJECTS)
STYLE_NAMES: tuple[str, ...] = tuple(s.name for s in STYLES)
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(o.family for o in OBJECTS))
MOST_BYTES = 1 << 16


def vocabulary_of(source: str) -> Vocabulary | None:
    """What the model of that name or folder draws, if it is a world; None for any other model.

    Raises `InputError` for a folder whose world.json is no list of names of the bundled world.
    """
    if source == WORLD:
        return FULL
    path = user_path(source) / WORLD_FILE
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large")
        return read_vocabulary(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"no {error} is in the bundled world" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path} does not say what the world draws ({why}); make it again: erase world --small"
        ) from None


def describe(vocabulary: Vocabulary) -> dict[str, Any]:
    """What world.json says of a vocabulary; `read_vocabulary` reads it."""
    return {
        "objects": list(vocabulary.object_names),
        "styles": list(vocabulary.style_names),
        "without": vocabulary.without,
        "becomes": vocabulary.becomes,
    }


def read_vocabulary(given: dict[str, Any]) -> Vocabulary:
    """The vocabulary that `describe` described. Raises `ValueError`, `KeyError` or `TypeError` for anything else."""
    found = chosen(given["objects"], given["styles"], given.get("without", ""), given.get("becomes", ""))
    for names in (found.object_names, found.style_names):
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"two different objects and styles are the least, got {', '.join(names) or 'none'}")
    for name in (found.without, found.becomes):
        if name and name not in (*OBJECT_NAMES, *STYLE_NAMES):
            raise KeyError(name)
    return found
