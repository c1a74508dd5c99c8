"""WebShop in pure Python: the official text environment, seeded, fast and restorable.

Owns the names below. Products: `Catalogue.from_rows`. Tasks: `build_goals`, `task_from_goal`.
Playing: `WebShopEnv`. Facts about the official environment: princeton-nlp/WebShop, commit 64fa2a5.
"""

from eeflib.envs.webshop.catalogue import Catalogue, Product, SkippedRow, parse_price
from eeflib.envs.webshop.env import WebShopEnv
from eeflib.envs.webshop.goals import build_goals, sample_resets, task_from_goal
from eeflib.envs.webshop.nouns import best_nouns, fixed_nouns, spacy_nouns, word_nouns
from eeflib.envs.webshop.reward import Reward, purchase_reward
from eeflib.envs.webshop.search import Index
from eeflib.envs.webshop.state import WebShopState, parse_action

__all__ = [
    "Catalogue",
    "Index",
    "Product",
    "Reward",
    "SkippedRow",
    "WebShopEnv",
    "WebShopState",
    "best_nouns",
    "build_goals",
    "fixed_nouns",
    "parse_action",
    "parse_price",
    "purchase_reward",
    "sample_resets",
    "spacy_nouns",
    "task_from_goal",
    "word_nouns",
]
