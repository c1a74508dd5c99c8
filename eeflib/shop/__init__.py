"""A shop that people use: a WebShop as web pages, every visit on record.

Owns the names below. `serve` starts it, `eef shop` calls `run_shop`. What is played is recorded as
trajectories of the policy `human` in a run folder, in the schema that the analysis reads.
"""

from eeflib.shop.command import run_shop
from eeflib.shop.episode import HUMAN
from eeflib.shop.server import Shop, serve

__all__ = ["HUMAN", "Shop", "run_shop", "serve"]
