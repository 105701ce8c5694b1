"""One file a revision, named by its number; what has been released is never changed."""
