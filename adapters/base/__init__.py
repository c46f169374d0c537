"""Base classes of methods: compressors, selectors, mergers, frame pruners and chains."""
