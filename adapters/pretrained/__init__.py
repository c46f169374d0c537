"""An adapter as a folder, on disk and on the Hub."""
