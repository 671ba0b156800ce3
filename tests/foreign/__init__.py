"""Servers that are not aiohttp's, each a process of its own, and callers that check each reply."""
