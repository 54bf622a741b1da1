"""Word lists and sentence templates of the procedural texts, and which keys and numbers training never sees.

The split depends on the order of the lists: changing it changes what is held out, and with it the evaluation sets.
"""

ADJECTIVES = """
amber azure brass brave bright broken calm clever cold copper cosy crimson curly dark dusty eager early empty faded
fancy fierce fresh frozen gentle giant glad golden grand green grey happy hollow humble iron ivory jolly large lazy
lonely lost lucky merry misty narrow noble noisy old pale plain polite proud quiet rapid red round royal rusty sandy
scarlet secret shy silent silver simple sleepy slow small smooth solid sour steady stone stormy sunny sweet swift
tall tidy tiny warm white wide wild wise wooden yellow young
""".split()
NOUNS = """
anchor apple arrow badger banner barrel basket beacon bear bell bison bottle bridge bucket button cabin cactus camel
candle canoe carpet castle cedar chapel cherry clock cloud comet cottage crane crown dagger daisy desert donkey
dragon drum eagle engine falcon farmer feather fern ferry fiddle forest fountain fox garden ghost glacier goose
grape guitar hammer harbor hawk hedge helmet heron hunter island jacket jaguar kettle kitten ladder lantern lemon
library lion lizard magnet maple market meadow melon miller mirror monkey mountain needle oak ocean olive onion
orchard otter owl oyster palace panda parrot peach pearl pencil pepper piano pigeon pillow pilot pirate planet
potato prince rabbit raven ribbon river robin rocket sailor salmon saddle shell shepherd shovel spider spoon
squirrel stable station statue summit swan tailor temple thunder tiger tower tractor trumpet tunnel turtle valley
village violin wagon walnut whale whistle willow window wizard wolf zebra
""".split()
CODE_WORDS = """
alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec romeo
sierra tango uniform victor whiskey xray yankee zulu
""".split()
IDENTIFIERS = """
count total index value width height price items names score left right first last text line page data size start
limit user node edge table field level key result number
""".split()

NUMBER_ATTRIBUTES = [
    "access code",
    "locker number",
    "room number",
    "ticket number",
    "key code",
    "secret number",
    "pin",
    "serial number",
]
WORD_ATTRIBUTES = ["password", "call sign", "code word", "secret word"]

NUMBER_STATEMENTS = [
    "The {a} of the {k} is {v}.",
    "The {a} for the {k} is {v}.",
    "Remember that the {a} of the {k} is {v}.",
    "Note: the {a} of the {k} is {v}.",
    "Everyone knows the {a} of the {k} is {v}.",
]
WORD_STATEMENTS = [
    "The {a} of the {k} is '{v}'.",
    "The {a} for the {k} is '{v}'.",
    "Remember that the {a} of the {k} is '{v}'.",
]
QUESTIONS = [
    "What is the {a} of the {k}?",
    "Tell me the {a} of the {k}.",
    "What is the {a} for the {k}?",
    "Give me the {a} of the {k}.",
    "Which {a} belongs to the {k}?",
]
INTRODUCTIONS = [
    "Read the text and answer the questions.",
    "Here is a text. Answer the questions about it.",
    "Use the following text to answer.",
    "Read this document carefully.",
]
SYSTEM_PROMPTS = [
    "You are a helpful assistant.",
    "You answer questions about a document.",
    "Answer with the exact value.",
]
COPY_REQUESTS = [
    "Repeat the following text exactly:",
    "Copy this text word for word:",
    "Write the following text again:",
]
REPLACE_REQUESTS = [
    "Repeat the text, replacing '{x}' with '{y}':",
    "Rewrite the text with '{y}' instead of '{x}':",
    "Replace '{x}' with '{y}' in this text:",
]

_ADJECTIVE_INDEX = {word: index for index, word in enumerate(ADJECTIVES)}
_NOUN_INDEX = {word: index for index, word in enumerate(NOUNS)}


def is_reserved_key(adjective: str, noun: str) -> bool:
    """Whether the pair is kept for evaluation (one in eight)."""
    return (_ADJECTIVE_INDEX[adjective] * 31 + _NOUN_INDEX[noun] * 17) % 8 == 0


def is_reserved_number(digits: str) -> bool:
    """Whether the number is kept for evaluation (one in seven)."""
    return int(digits) % 7 == 3
