"""Views of results: some of the answers of a method, and the budgets of methods at equal FLOPs."""
