"""WebShop in pure Python: the official text environment, seeded, fast and restorable.

The names below are what other modules use. Products: `Catalogue.from_rows`. Tasks: `build_goals`,
`task_from_goal`. Playing: `WebShopEnv`. Official data, fetched, built and opened:
`official.load_official`; their published splits: `goals.split_tasks`.
Facts about the official environment: princeton-nlp/WebShop, commit 64fa2a5.
`python -m tests.parity FOLDER` compares with recorded outputs of it.

Where this package differs from the official environment:

| official environment | `strict=True` | default |
|---|---|---|
| prices, price limits: unseeded global generator | seeded, same draws | seeded |
| `<r>`, `<c>`, `<q>` searches: back doors; `<a>` raises | kept (`<r>` seeded) | plain text |
| page type guessed from an address that holds the query | kept | from the state |
| clicked marks: looked up in the address (fails on quotes, | kept | what is chosen |
| non-ASCII; a quoted query marks an option) | | |
| an action raises and leaves the session half changed | kept; invalid, `reason` | cannot happen |
| goes on after the purchase, no step limit | kept; `truncated` is set | ended stays ended |
| sessions shared by all and never freed | a state each | a state each |
| `reset("3")` is a random goal | the task holds the goal | same |
| loader raises on a price such as `N/A`, on missing fields | row skipped, listed | same |
| goal without attributes or price limit: reward raises | that part is fulfilled | same |
| over 1,024 different words in a search: raises | searched | searched |
| title nouns by spaCy | spaCy if installed, | all non-stop words |
| | else as default | |

What looks odd and is kept in both: `Next >` on the last page, an option called `buy now` that buys,
`search[...]` on every page, actions with anything before the verb doing nothing.
"""

from eeflib.envs.webshop.catalogue import Catalogue, Product, SkippedRow, parse_price
from eeflib.envs.webshop.env import WebShopEnv
from eeflib.envs.webshop.goals import build_goals, task_from_goal
from eeflib.envs.webshop.pages import WebShopState
from eeflib.envs.webshop.reward import best_nouns, purchase_reward, spacy_nouns, word_nouns
from eeflib.envs.webshop.tasks import embedded_shop

__all__ = [
    "Catalogue",
    "Product",
    "SkippedRow",
    "WebShopEnv",
    "WebShopState",
    "best_nouns",
    "build_goals",
    "embedded_shop",
    "parse_price",
    "purchase_reward",
    "spacy_nouns",
    "task_from_goal",
    "word_nouns",
]
