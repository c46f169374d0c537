"""The results folder: its format, without anything that runs a model."""
