"""Sources of a log, where it is and how it is read: file systems, layouts, formats."""
