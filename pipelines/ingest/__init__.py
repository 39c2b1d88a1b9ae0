"""The ingest job: from a raw log to a dataset version."""
