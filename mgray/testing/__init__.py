"""Made-up logs with a known best score."""
