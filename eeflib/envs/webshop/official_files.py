"""The files of the official WebShop: names, where they are, what they hold.

Owns one table. Knows nothing about how a file is fetched or read. Source: setup.sh of
princeton-nlp/WebShop, commit 64fa2a5. Upstream publishes neither sizes nor checksums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eeflib.errors import DataError

__all__ = ["FILES", "SETS", "OfficialFile", "Size", "by_hand", "file_of", "files_of"]

Size = Literal["small", "full"]
"""1,000 products, or all 1.18 million."""

SETS = ("small", "full", "human")


@dataclass(frozen=True, slots=True)
class OfficialFile:
    """One file of the official data."""

    name: str
    drive_id: str
    """Id on Google Drive."""
    part_of: str
    """`small`, `full` or `human`."""
    role: str
    """`products`, `attributes` or `instructions`."""
    opening: bytes
    """First character of the JSON: `[` for a list of rows, `{` for asin -> entry."""
    about: str

    @property
    def url(self) -> str:
        """The address that setup.sh downloads from."""
        return f"https://drive.google.com/uc?export=download&id={self.drive_id}"


FILES = (
    OfficialFile(
        "items_shuffle_1000.json", "1EgHdxQ_YxqIQlvvq5iKlCrkEKR6-j0Ib",
        "small", "products", b"[", "1,000 products, a few MB",
    ),
    OfficialFile(
        "items_ins_v2_1000.json", "1IduG0xl544V_A_jv3tHXC0kyFi7PnyBu",
        "small", "attributes", b"{", "their attributes and synthetic instructions",
    ),
    OfficialFile(
        "items_shuffle.json", "1A2whVgOO0euk5O13n2iYDM0bQRkkRduB",
        "full", "products", b"[", "1.18 million products, about 5 GB",
    ),
    OfficialFile(
        "items_ins_v2.json", "1s2j6NgHljiZzQNL3veZaAiyW_qDEgBNi",
        "full", "attributes", b"{", "their attributes and synthetic instructions",
    ),
    OfficialFile(
        "items_human_ins.json", "14Kb5SPBk_jfdLZ_CDBNitW98QLDlKR5O",
        "human", "instructions", b"{", "12,087 human instructions, a few MB",
    ),
)  # fmt: skip


def files_of(which: Iterable[str]) -> tuple[OfficialFile, ...]:
    """The files of the named sets, in table order.

    Raises:
        DataError: an unknown set.
    """
    wanted = {which} if isinstance(which, str) else set(which)
    unknown = wanted.difference(SETS)
    if unknown or not wanted:
        raise DataError(f"which: {sorted(unknown) or 'nothing'} asked for; choose from {SETS}")
    return tuple(f for f in FILES if f.part_of in wanted)


def file_of(part_of: str, role: str) -> OfficialFile:
    """The file of one set with one role."""
    return next(f for f in files_of([part_of]) if f.role == role)


def by_hand(files: Iterable[OfficialFile], folder: Path) -> str:
    """What a person without a working download does."""
    lines = [f"  {f.name}  {f.url}  ({f.about})" for f in files]
    return "\n".join(
        [
            f"By hand: open these addresses in a browser and save them in {folder} as",
            *lines,
            "(items_human_ins.json is also in the folder baseline_models/data of "
            "github.com/princeton-nlp/WebShop), then run the same again: it checks them. "
            "From a server of your own: --from URL, or base_url=URL. "
            "The embedded catalogue needs none of these files.",
        ]
    )
