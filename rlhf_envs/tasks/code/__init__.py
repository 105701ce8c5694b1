"""Complete small Python functions, which are run in a sandbox against hidden tests."""
