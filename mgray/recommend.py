"""The old place of mgray.serve.recommender, for the code of models that were registered before the packages.

A served model brings mgray with it. A process that has imported mgray keeps its own, so an old model finds this.
"""

from mgray.serve.recommender import Reasons, Recommendations, Recommender

__all__ = ["Reasons", "Recommendations", "Recommender"]
