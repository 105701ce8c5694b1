"""Make the models that the package holds."""
