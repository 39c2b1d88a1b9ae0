"""Base of every job: Ray, locks, folders, the terminal, signals."""
