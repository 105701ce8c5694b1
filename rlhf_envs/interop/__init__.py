"""Connect environments and tasks with other people's systems. Each part needs its own extra, when it is used."""
