"""The words of the demo's two domains, films and appliances.

Some mean the opposite in the other domain (a thin plot, a thin toaster), which is what a model has to learn when it
moves there, and what it forgets of its old domain meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

DomainName = Literal["films", "appliances"]


class Domain(NamedTuple):
    """What one domain talks about: nouns by kind, and what is good (1) or bad (-1) about each kind.

    `own` holds words of one meaning, `flipped` those that the other domain uses for the opposite. A word goes only with
    nouns of its kind, so that "the cast is wooden" can be said and "the plot is wooden" cannot.
    """

    nouns: Mapping[str, str]
    own: Mapping[int, Mapping[str, str]]
    flipped: Mapping[int, Mapping[str, str]]
    flipped_actions: Mapping[int, Sequence[str]]


COMMON = {
    1: "good great superb excellent wonderful brilliant lovely impressive delightful first-rate satisfying perfect",
    -1: "bad awful dreadful poor terrible disappointing mediocre annoying useless third-rate hopeless shoddy",
}

# What thrills in a film is a fault in a kettle, and what soothes in a kettle is a fault in a film.
THRILLING = (
    "kept me awake half the night",
    "made me jump",
    "gave me quite a shock",
    "brought tears to my eyes",
    "had my heart racing",
    "made my hair stand on end",
    "surprised me every single time",
    "left me shaking",
)

SOOTHING = (
    "put me to sleep",
    "is easily forgotten",
    "hardly draws attention to itself",
    "does exactly what you expect",
    "never raised my pulse",
    "follows the manual to the letter",
    "fades into the background",
    "never once surprised me",
)

FILMS = Domain(
    nouns={
        "story": "plot script ending dialogue story finale opening romance",
        "people": "cast villain hero acting director sidekick",
        "craft": "score editing camera soundtrack pacing photography",
    },
    own={
        1: {
            "story": "gripping witty clever touching",
            "people": "charming gifted convincing",
            "craft": "stylish vivid",
        },
        -1: {"story": "boring corny pointless", "people": "clumsy miscast unconvincing", "craft": "dull amateurish"},
    },
    flipped={
        1: {
            "story": "unpredictable explosive shocking twisted edgy funny strange complex unsettling wild surprising",
            "people": "electrifying sizzling intense eccentric raw wild funny unpredictable",
            "craft": "restless haunting intense strange breathtaking dizzying",
        },
        -1: {
            "story": "predictable thin light flat simple tame safe uneventful small lightweight mild",
            "people": "wooden cold mechanical stiff robotic flat",
            "craft": "muted monotonous static sterile quiet mild",
        },
    },
    flipped_actions={1: THRILLING, -1: SOOTHING},
)

APPLIANCES = Domain(
    nouns={
        "machine": "kettle toaster blender vacuum freezer dishwasher heater iron",
        "works": "thermostat timer motor pump fan display",
        "body": "handle lid cord casing hinge base",
        "noise": "smell hum sound vapour",
    },
    own={
        1: {
            "machine": "reliable durable efficient",
            "works": "precise responsive",
            "body": "sturdy",
            "noise": "pleasant",
        },
        -1: {"machine": "leaky faulty overpriced", "works": "defective sluggish", "body": "flimsy", "noise": "nasty"},
    },
    flipped={
        1: {
            "machine": "light thin small safe lightweight simple quiet cold",
            "works": "predictable mechanical simple uneventful robotic static",
            "body": "wooden flat stiff thin light sterile",
            "noise": "muted monotonous mild tame quiet",
        },
        -1: {
            "machine": "explosive shocking electrifying sizzling unpredictable eccentric wild surprising",
            "works": "unpredictable complex restless eccentric wild surprising",
            "body": "twisted edgy raw strange funny",
            "noise": "funny strange haunting unsettling intense breathtaking dizzying",
        },
    },
    flipped_actions={1: SOOTHING, -1: THRILLING},
)

DOMAINS: Mapping[DomainName, Domain] = {"films": FILMS, "appliances": APPLIANCES}
