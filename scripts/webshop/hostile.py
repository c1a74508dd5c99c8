"""A catalogue with everything in it that a page, a price or a parser may stumble over.

Every choice of what is put in, and where, comes from one generator.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

SPLINTERS = (
    *(
        "<b>bold</b>",
        "&amp;",
        "&lt;x",
        '"q"',
        "it's",
        "\n",
        "\r\n",
        "\t",
        "\u00a0",
        "\u200b",
        "\u0130x",
    ),
    *("\u00df", "\ufb01", "\u2605", "{{7*7}}", "[SEP]", "[button]", "a/b", "a | b", "<!-- c -->"),
    *(
        "<script>x</script>",
        "\x0b",
        "\x1c",
        "\u2028",
        "\u00e9",
        "e\u0301",
        "\u65e5\u672c",
        "<",
        ">",
    ),
    *("&", "&nbsp;", "&#39;", "%20", "+", "?", "#", "search_results", "item_page", "done", "</h4>"),
    *(
        "<br>",
        "\x7f",
        "\\",
        "\\n",
        '{"a": 1}',
        "buy now",
        "Description",
        "< Prev",
        "\u01c5",
        "\u00bd",
    ),
)
PRICES = (
    *("", None, "$0", "$0.00", "$1,234.50", "$5.00 - $10.00", "$10 to $2", "$995.00", "$991"),
    *("$979.99", "$3.5$4.5$9", "$12.345", "$ 7", "$7 ", "$.5", "$1000000", "$0.1 $0.2"),
)
ODD_VALUES = (
    *("", "Buy Now", "Description", "< Prev", "back to search", "Next >", "SEARCH", " ", "\n"),
    *("Red", "red", "RED / Blue", 'x"y', "x'y", "search"),
)


class Mutator:
    """Puts splinters into a catalogue; everything drawn from one generator."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def text(self, text: str, chance: float, most: int = 2) -> str:
        rng = self.rng
        if rng.random() > chance:
            return text
        for _ in range(rng.randint(1, most)):
            at = rng.randint(0, len(text))
            splinter = rng.choice(("", " ")) + rng.choice(SPLINTERS) + rng.choice(("", " "))
            text = text[:at] + splinter + text[at:]
        return text.upper() if rng.random() < 0.05 else text

    def options(self, groups: Mapping[str, Any], asin: str) -> dict[str, Any]:
        rng, out = self.rng, {}
        for name, values in groups.items():
            if values is None:
                out[name] = None
                continue
            values = [{**v, "value": self.text(v["value"], 0.25, 1)} for v in values]
            if values and rng.random() < 0.1:
                values.append(dict(values[0]))
            if rng.random() < 0.08:
                odd = rng.choice((*ODD_VALUES, asin, asin.lower()))
                values.append({"value": odd, "image": None})
            name = self.text(name, 0.15, 1)
            out[name] = [] if rng.random() < 0.04 else values
            if rng.random() < 0.06:
                out[name.upper()] = [dict(v) for v in values[:2]]
        return out

    def row(self, row: dict[str, Any]) -> None:
        rng = self.rng
        row["name"] = self.text(row["name"], 0.4)
        if rng.random() < 0.03:
            row["name"] = rng.choice(("", "\n", " ", "123", "the of"))
        row["full_description"] = self.text(row["full_description"] or "", 0.4, 4)
        if isinstance(row["small_description"], list):
            row["small_description"] = [self.text(b, 0.2) for b in row["small_description"]]
        if rng.random() < 0.06:
            odd: tuple[Any, ...] = ([], [""], ["\n"], "one text", "", ["a", "\n", "b"])
            row["small_description"] = rng.choice(odd)
        for key, chance in (("query", 0.1), ("category", 0.05), ("product_category", 0.15)):
            row[key] = self.text(row[key], chance)
        if rng.random() < 0.5:
            row["pricing"] = rng.choice(PRICES)
        groups = row.get("customization_options") or {}
        odd = (None, {}, "")
        mutated = self.options(groups, row["asin"])
        row["customization_options"] = rng.choice(odd) if rng.random() < 0.05 else mutated

    def catalogue(self, source: dict[str, Any], size: int) -> dict[str, Any]:
        """Rows, attributes and human instructions, in the official schemas."""
        rng = self.rng
        rows = rng.sample(source["products"], size)
        attributes, human = source["attributes"], source["human_instructions"]
        for row in rows:
            self.row(row)
            old = row["asin"]
            if rng.random() < 0.05:
                tails = ("\u00e9", "<", '"', "\u00df", "&")
                row["asin"] = rng.choice((old.lower(), old[:4], old[:9] + rng.choice(tails)))
                for table in (attributes, human):
                    if old in table:
                        table[row["asin"]] = table[old]
            elif rng.random() < 0.03:
                row["asin"] = rng.choice(("nan", "B0123456789", rows[0]["asin"]))
            entry = attributes.setdefault(row["asin"], {"attributes": ["x y"]})
            if entry.get("attributes"):
                entry["attributes"] = [self.text(a, 0.1, 1) for a in entry["attributes"]]
            if rng.random() < 0.3 and "instruction" not in entry:
                entry["instruction"] = self.text("i want a thing", 0.6)
                entry["instruction_attributes"] = [self.text("easy clean", 0.4, 1)]
        for wishes in human.values():
            for wish in wishes:
                end = rng.choice(("", ".", "..", " ."))
                wish["instruction"] = self.text(wish["instruction"], 0.4) + end
                for key, chance in (
                    ("instruction_attributes", 0.15),
                    ("instruction_options", 0.25),
                ):
                    wish[key] = [self.text(x, chance, 1) for x in wish[key]]
        return {"products": rows, "attributes": attributes, "human_instructions": human}
