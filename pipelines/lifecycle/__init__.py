"""Models over time: retrain, promote, roll back, export."""
