"""Data that a model reads: dataset versions, batches, event columns, inputs."""
