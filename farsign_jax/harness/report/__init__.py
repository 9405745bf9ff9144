"""The report: folders of results as one HTML page."""
