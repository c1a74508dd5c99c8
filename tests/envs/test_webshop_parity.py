"""Every recorded output of the official environment is reproduced, and a wrong one is noticed."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from eeflib.envs.webshop.parity import FILES, check_folder, main
from eeflib.errors import DataError

VECTORS = Path(__file__).parents[1] / "data" / "webshop_parity"

COUNTS = {
    "catalogue": 303,
    "catalogue_loaded": 900,
    "goals": 645,
    "rollouts": 1389,
    "reward_cases": 895,
    "title_nouns": 300,
    "searches": 198,
    "units": 924,
    "reset_sampling": 6359,
    "wrapper_cases": 77,
}


@pytest.mark.parametrize("name", FILES)
def test_file_is_reproduced(name: str) -> None:
    (result,) = check_folder(VECTORS, [name])
    assert result.failures == ()
    assert (result.passed, result.total) == (COUNTS[name], COUNTS[name])


def test_command_prints_a_count_per_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(VECTORS)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [f"{name}.json.gz" for name in FILES]
    assert all(f"{COUNTS[n]} of {COUNTS[n]}" in line for n, line in zip(FILES, lines, strict=True))


def _tampered(folder: Path, name: str, change) -> Path:  # type: ignore[no-untyped-def]
    shutil.copytree(VECTORS, folder)
    path = folder / f"{name}.json.gz"
    data = json.loads(gzip.decompress(path.read_bytes()))
    change(data)
    path.chmod(0o644)
    path.write_bytes(gzip.compress(json.dumps(data).encode()))
    return folder


def _worse_reward(data: dict) -> None:
    data["cases"][7]["reward"] += 0.01


def _other_page(data: dict) -> None:
    data["episodes"][3]["steps"][1]["obs_rich"] += "\n"


def _other_ranking(data: dict) -> None:
    asins = data["queries"][0]["asins"]
    asins[0], asins[1] = asins[1], asins[0]


@pytest.mark.parametrize(
    ("name", "change"),
    [("reward_cases", _worse_reward), ("rollouts", _other_page), ("searches", _other_ranking)],
)
def test_a_difference_is_counted(tmp_path: Path, name: str, change) -> None:  # type: ignore[no-untyped-def]
    (result,) = check_folder(_tampered(tmp_path / "v", name, change), [name])
    assert result.total - result.passed == len(result.failures) == 1
    assert not result.ok


def test_unreadable_file_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(VECTORS, tmp_path / "v")
    broken = tmp_path / "v" / "searches.json.gz"
    broken.chmod(0o644)
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match=r"searches\.json\.gz"):
        check_folder(tmp_path / "v", ["searches"])
    assert main([str(tmp_path / "nowhere")]) == 2
    assert main([]) == 2
    assert "usage" in capsys.readouterr().out


def test_a_folder_that_holds_some_of_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(VECTORS, tmp_path / "v")
    (tmp_path / "v" / "searches.json.gz").unlink()
    assert main([str(tmp_path / "v")]) == 2
    assert "searches.json.gz" in capsys.readouterr().out
    assert main([str(tmp_path / "v"), "--present"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(FILES) - 1
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), "--present"]) == 2
