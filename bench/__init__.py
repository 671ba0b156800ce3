"""Measures the cost of a pool cycle, as a multiple of the least that any pool could cost.

``python -m bench`` compares contenders in one run: both cores of this library, other pools, and the
floor.  Each contender has its own process.  They take turns, round by round.  In each round a cycle
is timed next to the floor, in the same process.  The report contains the medians of the ratios of
all rounds: times drift with the machine, ratios hardly do.  ``timing.py`` explains how a cycle is
timed.

To add a contender
    Add a class in a file of ``contenders/`` (``contender.py`` has the protocols, ``queue.py`` is a
    short example), and a line in ``contenders/__init__.py``.

To add a scenario
    Add a :class:`~bench.scenario.Scenario` in a file of ``scenarios/`` (``public.py`` has short
    examples), and a line in ``scenarios/__init__.py``.  A scenario lists the methods that it
    ``needs``; all contenders with these methods take part.  It is set up in the process of the
    contender in its first round, for all points at once, and torn down after its last round.

To add a bound
    Add a line in ``bounds.py``, which refers to samples of scenarios.

To find what got slower
    Use ``--json OLD`` before a change, and ``--compare OLD`` after it; ``compare.py`` explains what
    is marked.

To draw plots
    Use ``--plot DIR``; with ``--from FILE`` it draws a run saved by ``--json FILE``, without a
    measurement.

To write tables
    ``--rst FILE`` writes tables into a page; ``rst.py`` explains where.  ``make figures`` draws the
    plots and writes the tables of the README and the docs.
"""
