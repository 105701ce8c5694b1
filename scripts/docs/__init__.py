"""Write and lay out the documentation site while MkDocs builds it."""
