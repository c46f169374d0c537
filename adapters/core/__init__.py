"""Video tokens, budgets, and how a class is named and configured."""
