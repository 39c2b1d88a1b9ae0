"""The train job: workers, and what it publishes."""
