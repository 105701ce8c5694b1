"""Fit the embedded models of chats."""
