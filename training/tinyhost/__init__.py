"""The tinyhost: a small host for synthetic videos, and its training from random weights."""
