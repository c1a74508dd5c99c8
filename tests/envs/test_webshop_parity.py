"""Every recorded output of the official environment is reproduced, and a wrong one is noticed."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from eeflib.envs.webshop.reward import best_nouns, word_nouns
from eeflib.errors import DataError
from tests.parity import FILES, check_folder, main

VECTORS = Path(__file__).parents[1] / "data" / "webshop_parity"

COUNTS = {
    "catalogue": 303,
    "catalogue_loaded": 900,
    "goals": 649,
    "rollouts": 1389,
    "reward_cases": 895,
    "title_nouns": 684,
    "searches": 198,
    "units": 924,
    "reset_sampling": 6360,
    "wrapper_cases": 77,
}


def test_every_file_is_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    assert best_nouns() is not word_nouns, "title_nouns needs spaCy, which `make setup` installs"
    assert main([str(VECTORS)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{name}: {count} of {count}" for name, count in COUNTS.items()]
    assert list(FILES) == sorted(COUNTS, key=list(COUNTS).index)
    assert {p.name.partition(".")[0] for p in VECTORS.glob("*.gz")} == set(FILES)


def _tampered(folder: Path, name: str, change) -> Path:  # type: ignore[no-untyped-def]
    shutil.copytree(VECTORS, folder)
    path = folder / f"{name}.json.gz"
    data = json.loads(gzip.decompress(path.read_bytes()))
    change(data)
    path.chmod(0o644)
    path.write_bytes(gzip.compress(json.dumps(data).encode()))
    return folder


def _other_page(data: dict) -> None:
    data["episodes"][3]["steps"][1]["obs_rich"] += "\n"


def _other_ranking(data: dict) -> None:
    asins = data["queries"][0]["asins"]
    asins[0], asins[1] = asins[1], asins[0]


@pytest.mark.parametrize(
    ("name", "change"), [("rollouts", _other_page), ("searches", _other_ranking)]
)
def test_a_difference_is_counted(tmp_path: Path, name: str, change: Any) -> None:
    (result,) = check_folder(_tampered(tmp_path / "v", name, change), [name])
    assert (result.total, len(result.differing)) == (COUNTS[name], 1)
    assert not result.ok


def test_the_command_names_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _tampered(tmp_path / "v", "searches", _other_ranking)
    for path in folder.glob("*.gz"):
        if path.name.partition(".")[0] not in ("catalogue", "catalogue_loaded", "searches"):
            path.unlink()
    assert main([str(folder), "--present"]) == 1
    first, *_, last, what = capsys.readouterr().out.splitlines()
    assert (first, last) == ("catalogue: 303 of 303", "searches: 197 of 198")
    assert what.startswith("    differs: ")


def test_unreadable_file_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(VECTORS, tmp_path / "v")
    broken = tmp_path / "v" / "searches.json.gz"
    broken.chmod(0o644)
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match=r"searches\.json\.gz"):
        check_folder(tmp_path / "v", ["searches"])
    for options in ((), ("--present",)):
        assert main([str(tmp_path / "nowhere"), *options]) == 2
        assert "of golden vectors" in capsys.readouterr().err
