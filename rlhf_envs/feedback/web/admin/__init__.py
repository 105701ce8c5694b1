"""Serve the pages of admins. Each module holds the routes of a page, or what the pages share."""
