"""The tasks of an ingest, each a function of (context, index): what a worker of Ray Data runs.

A task that Ray, or the next run after a kill, runs again overwrites its own work and nothing else.
"""
