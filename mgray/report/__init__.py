"""Pages and tables for people: reports, plots, tables for the terminal and the model card."""
