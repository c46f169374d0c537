"""Published releases reproduced with their deviations, for comparison."""
