"""All that knows Ray or MLflow: each module turns a config into one run of an engine over mgray's functions."""
