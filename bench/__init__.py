"""What a cycle of the pool costs, as a multiple of the least that any pool could cost.

``python -m bench`` measures every scenario on every core of the library in one run.  Each core has
a process of its own, since it is chosen at import; they take turns, round by round, and in each
round a scenario is timed next to the floor, in the same process.  What is reported is the median of
the rounds' ratios: times drift with the machine, ratios hardly do.  The floor is a scenario as
well: how its ratio spreads around 1 is what the machine adds to all the others.

One more scenario, or the same cycle of another library, is one more file in ``scenarios/`` and its
name in ``scenarios/__init__.py``.  One more way to run the library is one more line of
``contenders.py``.
"""
