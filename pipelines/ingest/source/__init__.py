"""Where a log is and how it is read: file systems, layouts, formats."""
