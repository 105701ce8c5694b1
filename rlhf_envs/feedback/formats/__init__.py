"""Read and write judgements in the formats of other programs."""
