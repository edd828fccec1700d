"""Which of ImageNet's 1,000 classes a name stands for, so that a classifier can be asked about dogs and not breeds."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache

from timm.data.imagenet_info import ImageNetInfo

CLASSES = 1000

# Usual words for several classes, first and last of each range: the hyponyms of the word's usual sense in WordNet 3.0,
# whose synsets ImageNet's classes are. In four the pictures decide against it: "cat" is without cougar and lynx,
# "airplane" with the warplane, "boat" with sailing boats, "elephant" with the tusker. "chicken" and "sheep" have no
# such sense: cock and hen, ram and bighorn.
FAMILIES: dict[str, tuple[tuple[int, int], ...]] = {
    # animals
    "animal": ((0, 397),),
    "antelope": ((351, 353),),
    "ape": ((365, 369),),
    "bear": ((294, 297),),
    "beetle": ((300, 307),),
    "big cat": ((288, 293),),
    "bird": ((7, 24), (80, 100), (127, 146)),
    "butterfly": ((321, 326),),
    "cat": ((281, 285),),
    "chicken": ((7, 8),),
    "crab": ((118, 121),),
    "dinosaur": ((51, 51),),
    "dog": ((151, 268),),
    "duck": ((97, 98),),
    "eagle": ((22, 22),),
    "elephant": ((101, 101), (385, 386)),
    "finch": ((10, 14),),
    "fish": ((0, 6), (389, 397)),
    "fox": ((277, 280),),
    "frog": ((30, 32),),
    "goat": ((350, 350),),
    "horse": ((339, 339),),
    "hound": ((160, 178),),
    "insect": ((300, 326),),
    "lizard": ((38, 48),),
    "lobster": ((122, 123),),
    "mammal": ((101, 106), (147, 299), (330, 388)),
    "monkey": ((370, 382),),
    "owl": ((24, 24),),
    "panda": ((388, 388),),
    "parrot": ((87, 90),),
    "penguin": ((145, 145),),
    "poodle": ((265, 267),),
    "rabbit": ((330, 330), (332, 332)),
    "reptile": ((33, 68),),
    "retriever": ((205, 209),),
    "rodent": ((333, 338),),
    "salamander": ((25, 29),),
    "seal": ((150, 150),),
    "shark": ((2, 4),),
    "sheep": ((348, 349),),
    "snake": ((52, 68),),
    "spaniel": ((215, 221),),
    "spider": ((72, 77),),
    "squirrel": ((335, 335),),
    "terrier": ((179, 204),),
    "turtle": ((33, 37),),
    "whale": ((147, 148),),
    "wolf": ((269, 272),),
    # what moves
    "aeroplane": ((404, 404), (895, 895)),
    "airplane": ((404, 404), (895, 895)),
    "bicycle": ((444, 444), (671, 671)),
    "bike": ((444, 444), (671, 671)),
    "boat": ((472, 472), (484, 484), (554, 554), (576, 576), (625, 625), (814, 814), (871, 871), (914, 914)),
    "bus": ((654, 654), (779, 779), (874, 874)),
    "car": (
        (407, 407), (436, 436), (468, 468), (511, 511), (609, 609), (627, 627), (656, 656), (661, 661), (751, 751),
        (817, 817),
    ),
    "motorcycle": ((665, 665),),
    "plane": ((404, 404), (895, 895)),
    "sailboat": ((484, 484), (871, 871)),
    "ship": ((403, 403), (510, 510), (628, 628), (724, 724), (833, 833), (913, 913)),
    "train": ((466, 466),),
    "truck": ((555, 555), (569, 569), (656, 656), (675, 675), (717, 717), (734, 734), (864, 864), (867, 867)),
    "van": ((656, 656), (675, 675), (734, 734)),
    # things
    "apple": ((948, 948),),
    "bed": ((564, 564),),
    "boot": ((514, 514),),
    "bottle": ((440, 440), (720, 720), (737, 737), (898, 899), (901, 901), (907, 907)),
    "bread": ((930, 932), (962, 962)),
    "bridge": ((821, 821), (839, 839), (888, 888)),
    "camera": ((732, 732), (759, 759)),
    "chair": ((423, 423), (559, 559), (765, 765), (857, 857)),
    "clock": ((409, 409), (530, 530), (892, 892)),
    "coat": ((568, 568), (617, 617), (869, 869)),
    "couch": ((831, 831),),
    "flower": ((985, 986),),
    "guitar": ((402, 402), (546, 546)),
    "gun": ((413, 413), (471, 471), (763, 764)),
    "hat": ((439, 439), (452, 452), (515, 515), (808, 808)),
    "keyboard": ((508, 508), (878, 878)),
    "knife": ((499, 499), (623, 623)),
    "lamp": ((846, 846),),
    "mug": ((504, 504),),
    "orchid": ((986, 986),),
    "pen": ((418, 418), (563, 563), (749, 749)),
    "phone": ((487, 487), (528, 528), (707, 707)),
    "piano": ((579, 579), (881, 881)),
    "shoe": ((630, 630), (770, 770), (774, 774)),
    "sofa": ((831, 831),),
    "table": ((526, 526), (532, 532), (736, 736)),
    "telephone": ((487, 487), (528, 528), (707, 707)),
    "vegetable": ((935, 947),),
}  # fmt: skip
# Words that ImageNet has for something else than most who write them mean, or for two things; each with what to write.
UNSURE: dict[str, str] = {
    "boxer": "a fuller name",
    "cardigan": "Cardigan Welsh corgi",
    "crane": "a fuller name",
    "drake": "duck",
    "head": "headland",
    "kite": "bird",
    "mail": "chain mail",
    "mole": "breakwater",
    "mouse": "computer mouse",
    "painter": "cougar",
    "pirate": "pirate ship",
}


def classes_of(name: str) -> list[int]:
    """The classes that a name stands for; none for what ImageNet does not know.

    A word of `FAMILIES` stands for those, any other for the class whose first synonym it is, else for those of which it
    is another. Whole names alone count: "horse" is no "river horse". Words of `UNSURE` stand for nothing.
    """
    wanted = _plain(name)
    if wanted in FAMILIES:
        return [place for first, last in FAMILIES[wanted] for place in range(first, last + 1)]
    if wanted in UNSURE:
        return []
    synonyms = [[_plain(one) for one in names.split(",")] for names in class_names()]
    exact = [place for place, names in enumerate(synonyms) if names[0] == wanted]
    return exact or [place for place, names in enumerate(synonyms) if wanted in names]


def named_classes(names: Sequence[str]) -> tuple[list[str], dict[str, list[int]]]:
    """What each class is called, and the classes of each name. A class that two names stand for is the first one's."""
    labels = [said.split(",")[0].strip() for said in class_names()]
    meant: dict[str, list[int]] = {}
    taken: set[int] = set()
    for name in names:
        meant[name] = [place for place in classes_of(name) if place not in taken]
        taken.update(meant[name])
        for place in meant[name]:
            labels[place] = name
    return labels, meant


@cache  # each name of a run is looked up in them
def class_names() -> list[str]:
    """ImageNet's 1,000 classes in their order, synonyms separated by commas."""
    info = ImageNetInfo()
    return [info.index_to_description(i) for i in range(CLASSES)]


def hint(name: str) -> str:
    """What to write in the place of a name that stands for no class, as the beginning of a message's remedy."""
    wanted = _plain(name)
    if wanted in UNSURE:
        return f"it may mean two things there, so write {UNSURE[wanted]}, or "
    every = [*FAMILIES, *(_plain(one) for names in class_names() for one in names.split(","))]
    close = difflib.get_close_matches(wanted, dict.fromkeys(every), n=3, cutoff=0.7)
    return f"did you mean {', '.join(close)}? Else " if close else ""


def _plain(words: str) -> str:
    return " ".join(words.casefold().split())
