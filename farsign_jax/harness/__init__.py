"""What experiments are made of: panels of runs, summaries, plots and reports."""
