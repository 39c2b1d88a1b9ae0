"""mgray: maths and contracts of the multi-granularity interest model. Imports neither Ray nor MLflow."""

__version__ = "0.1.0"
