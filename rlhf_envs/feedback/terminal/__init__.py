"""Ask an annotator at the terminal."""
