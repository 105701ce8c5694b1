"""Let an annotator label at the terminal."""
