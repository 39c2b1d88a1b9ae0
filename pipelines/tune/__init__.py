"""The tune job: a search on Ray Tune."""
