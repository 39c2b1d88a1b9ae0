"""The jobs, one script each: options to a config, one call of a pipeline, one JSON line."""
