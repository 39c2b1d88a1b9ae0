"""The predict job: lists for every user of a log."""
