"""Compare algorithms on equal terms, over several seeds."""
