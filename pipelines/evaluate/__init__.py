"""The eval job, and the baselines of every report."""
