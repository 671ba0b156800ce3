"""Libraries that take an ``aiohttp.ClientSession``, with servers that speak their protocols.

``python -m tests.clients`` tries each that is installed, and prints a table.
"""
