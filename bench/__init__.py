"""Measurements anyone can repeat: `make bench`, or `python -m bench --help`.

Every figure of a run is taken on one machine in that run, beside a bare aiohttp relay's, in rounds that take turns:
what a number means is its ratio to the relay's.
"""
