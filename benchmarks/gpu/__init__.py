"""A quarter of an hour on one GPU: first whether everything computes there what it computes on a CPU, then how fast.

``python -m benchmarks.gpu --minutes 8 --out DIR``; without a card the same command rehearses every row at toy size.
"""
