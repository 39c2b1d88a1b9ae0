"""What every job stands on: Ray, locks, folders, the terminal, signals."""
