"""What the bundled world contains: objects, styles, background colours, and the words for them.

Names and synonyms follow the English annotations of Unicode CLDR, shortened to everyday words.
"""

from __future__ import annotations

from dataclasses import dataclass


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

OBJECT_NAMES: tuple[str, ...] = tuple(o.name for o in OBJECTS)
STYLE_NAMES: tuple[str, ...] = tuple(s.name for s in STYLES)
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(o.family for o in OBJECTS))
