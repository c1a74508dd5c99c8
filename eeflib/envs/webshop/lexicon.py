"""The words of the embedded catalogue: categories, product types, attributes, brands, options.

Data only. Invented brands; every attribute is two words, and no attribute's words are a subset of
another's, so that the reward's fuzzy match (token_set_ratio > 85) never confuses two of them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ASIN_HEADS",
    "ASIN_TAILS",
    "BRANDS",
    "CATEGORIES",
    "COLORS",
    "FILLER",
    "OPTION_WORDS",
    "Category",
    "ProductType",
]


@dataclass(frozen=True)
class ProductType:
    """A family of products: what a shopper calls it, and where the store files it."""

    noun: str
    path: tuple[str, ...]


@dataclass(frozen=True)
class Category:
    name: str
    """Official-style category word (`fashion`, `garden`, ...)."""
    types: tuple[ProductType, ...]
    attributes: tuple[str, ...]
    size_name: str
    """Name of the second option group."""
    sizes: tuple[str, ...]


def _types(root: str, **branches: str) -> tuple[ProductType, ...]:
    out = []
    for branch, nouns in branches.items():
        for noun in nouns.split(","):
            name = branch.replace("_", " ").title()
            out.append(ProductType(noun.strip(), (root, name, noun.strip().title())))
    return tuple(out)


CATEGORIES: tuple[Category, ...] = (
    Category(
        "fashion",
        _types("Clothing & Shoes", footwear="slippers, sandals", outerwear="jacket, raincoat"),
        (
            "memory foam",
            "slip resistant",
            "arch support",
            "machine washable",
            "long sleeve",
            "wide fit",
            "rubber sole",
            "drawstring waist",
            "fleece inner",
            "quick drying",
            "zipper pocket",
            "faux suede",
            "stretch knit",
            "padded collar",
        ),
        "size",
        ("small", "medium", "large", "x-large"),
    ),
    Category(
        "beauty",
        _types("Beauty & Care", skin="moisturizer, sunscreen", hair="shampoo, conditioner"),
        (
            "fragrance free",
            "cruelty free",
            "tea tree",
            "coconut oil",
            "sulfate free",
            "sensitive skin",
            "vitamin enriched",
            "aloe vera",
            "oil control",
            "deep hydrating",
            "anti frizz",
            "paraben safe",
            "argan blend",
            "dermatologist approved",
        ),
        "volume",
        ("3 ounce", "6 ounce", "12 ounce", "20 ounce"),
    ),
    Category(
        "electronics",
        _types("Electronics", audio="headphones, speaker", power="charger, battery"),
        (
            "noise cancelling",
            "splash proof",
            "fast charging",
            "carbon fiber",
            "voice assistant",
            "long lasting",
            "high speed",
            "easy pairing",
            "shock proof",
            "stereo sound",
            "dual microphone",
            "usb port",
            "silver plated",
            "overheat protection",
        ),
        "style",
        ("basic", "standard", "plus", "pro"),
    ),
    Category(
        "kitchen",
        _types("Home & Kitchen", cookware="skillet, saucepan", storage="canister, lunchbox"),
        (
            "non stick",
            "stainless steel",
            "dishwasher safe",
            "leak proof",
            "cast iron",
            "bpa free",
            "heat resistant",
            "glass lid",
            "cool handle",
            "ceramic coated",
            "stackable shape",
            "induction ready",
            "vacuum sealed",
            "copper base",
        ),
        "capacity",
        ("1 quart", "2 quart", "4 quart", "6 quart"),
    ),
    Category(
        "garden",
        _types("Patio & Garden", seating="hammock, bench", growing="planter, trellis"),
        (
            "rust proof",
            "weather resistant",
            "solid teak",
            "folding legs",
            "powder coated",
            "drainage holes",
            "uv stable",
            "heavy gauge",
            "hand woven",
            "self watering",
            "wall mounted",
            "tool included",
            "frost tolerant",
            "recycled plastic",
        ),
        "width",
        ("24 inch", "36 inch", "48 inch", "60 inch"),
    ),
    Category(
        "furniture",
        _types("Home & Furniture", living="sofa, bookcase", office="desk, stool"),
        (
            "solid wood",
            "easy assembly",
            "engineered oak",
            "metal frame",
            "tufted back",
            "space saving",
            "adjustable height",
            "faux leather",
            "storage drawer",
            "swivel seat",
            "scratch resistant",
            "high density",
            "velvet upholstered",
            "rounded corners",
        ),
        "finish",
        ("matte", "glossy", "rustic", "brushed"),
    ),
    Category(
        "grocery",
        _types("Grocery & Gourmet", snacks="granola, crackers", drinks="coffee, tea"),
        (
            "gluten free",
            "low sugar",
            "organic farmed",
            "reduced sodium",
            "plant based",
            "fair trade",
            "whole grain",
            "dairy free",
            "keto friendly",
            "naturally flavored",
            "kosher certified",
            "slow roasted",
            "protein packed",
            "hand picked",
        ),
        "flavor",
        ("original", "vanilla", "cinnamon", "caramel"),
    ),
    Category(
        "sports",
        _types("Sports & Outdoors", camping="tent, backpack", fitness="dumbbell, kettlebell"),
        (
            "rip stop",
            "ultra lightweight",
            "waterproof seams",
            "padded straps",
            "mesh window",
            "reflective trim",
            "quick setup",
            "foam grip",
            "hex shaped",
            "chest clip",
            "insulated pouch",
            "knurled bar",
            "carry bag",
            "reinforced base",
        ),
        "pack",
        ("pack of 1", "pack of 2", "pack of 3", "pack of 4"),
    ),
    Category(
        "toys",
        _types("Toys & Games", building="blocks, puzzle", pretend="dollhouse, robot"),
        (
            "non toxic",
            "wooden pieces",
            "magnetic tiles",
            "battery powered",
            "remote controlled",
            "soft edges",
            "glowing parts",
            "learning letters",
            "sound effects",
            "storage bin",
            "washable paint",
            "oversized parts",
            "travel sized",
            "flashing lights",
        ),
        "age",
        ("toddler", "preschool", "grade school", "teen"),
    ),
    Category(
        "pets",
        _types("Pet Supplies", dogs="leash, harness", cats="scratcher, litterbox"),
        (
            "chew proof",
            "no pull",
            "breathable mesh",
            "sisal rope",
            "odor filter",
            "step in",
            "quick release",
            "double handle",
            "hooded top",
            "catnip infused",
            "reflecting stitch",
            "padded chest",
            "easy scoop",
            "catch mat",
        ),
        "fit",
        ("tiny", "junior", "adult", "giant"),
    ),
    Category(
        "office",
        _types("Office Products", writing="notebook, markers", filing="binder, organizer"),
        (
            "acid free",
            "spiral bound",
            "numbered pages",
            "fine tip",
            "dry erase",
            "smear proof",
            "clear cover",
            "elastic closure",
            "thick paper",
            "label slots",
            "mesh drawers",
            "refillable ink",
            "hard shell",
            "ribbon marker",
        ),
        "ruling",
        ("blank", "lined", "grid", "dotted"),
    ),
    Category(
        "bedding",
        _types("Bed & Bath", sleep="pillow, blanket", bath="towel, bathrobe"),
        (
            "cooling gel",
            "down alternative",
            "egyptian cotton",
            "wrinkle proof",
            "bamboo rayon",
            "deep pockets",
            "extra plush",
            "waffle weave",
            "shed proof",
            "allergy tested",
            "fade resistant",
            "hotel quality",
            "weighted glass",
            "hooded cut",
        ),
        "bed size",
        ("twin", "full", "queen", "king"),
    ),
)

COLORS: tuple[str, ...] = (
    "black", "white", "navy", "teal", "olive", "coral", "maroon", "beige",
    "gray", "purple", "turquoise", "gold",
)  # fmt: skip

BRANDS: tuple[str, ...] = (
    "Norvale", "Brisk", "Calder", "Dunmore", "Elmstead", "Farrow", "Glenby", "Hollin",
    "Ivara", "Juniper", "Kestrel", "Lomond", "Mirren", "Nessa", "Orlan", "Pellow",
    "Quillan", "Rothay", "Selkirk", "Tamsin", "Ulva", "Verrin", "Wendel", "Yarrow",
)  # fmt: skip

FILLER: tuple[str, ...] = (
    "Made with care and tested by people who use it every day.",
    "A thoughtful gift for birthdays and holidays.",
    "Ships in plain packaging.",
    "If anything is wrong, write to us and we will make it right.",
    "Designed for daily use at home and on the road.",
    "Our team checks each piece by hand before it leaves.",
)

_SYLLABLES = tuple(c + v for c in "bdfgklmnprstvz" for v in "aeiou")


def _codes(n: int, step: int) -> tuple[str, ...]:
    """n four-letter codes: two syllables each, spread over the alphabet by a fixed stride."""
    size = len(_SYLLABLES)
    picked = [(i * step) % (size * size) for i in range(n)]
    return tuple(_SYLLABLES[p // size] + _SYLLABLES[p % size] for p in picked)


ASIN_HEADS: tuple[str, ...] = tuple("b0" + code for code in _codes(256, 191))
"""First six letters of a product id: few, so that a small vocabulary covers every id."""
ASIN_TAILS: tuple[str, ...] = _codes(64, 757)
"""Last four letters of a product id; head x tail gives 16,384 ids of the official length."""

OPTION_WORDS: frozenset[str] = frozenset(
    word
    for category in CATEGORIES
    for value in (*category.sizes, category.size_name)
    for word in value.split()
)
"""Words of option names and values, which shoppers leave out of a search."""
