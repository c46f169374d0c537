"""What a method derives from: compressors, selectors, mergers, frame pruners and chains."""
