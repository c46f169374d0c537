"""Dialects of annotations: from a row of a file to the turns of conversations about a video."""
