"""From results to tables, plots and the HTML page."""
