"""What a training needs, predicted from the configuration of a host."""
