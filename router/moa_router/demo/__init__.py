"""`moa-router demo`: a fusion of a real small model, on this machine, to watch.

It meets the router where every client does, on the wire: the model, or the simulator, and the router run as processes
of their own.
"""
