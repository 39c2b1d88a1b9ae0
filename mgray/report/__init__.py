"""What a person looks at: reports, plots, tables for the terminal and the model card."""
