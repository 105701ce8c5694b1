"""Make the judges of films, "gold" and "gold-bow"."""
