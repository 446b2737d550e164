"""What the router shows: metrics, spans and log records.

The lowest floor of the router; it imports nothing of the others. ``names`` is the one home of every name that leaves
the process, ``metrics`` counts, ``tracing`` records spans, ``logs`` writes lines.
"""
