"""Measures the cost of a pool cycle, in µs and as a multiple of the least possible cost.

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
    contender at the beginning of a turn, for all points at once, and torn down at its end: see
    ``run.py``.

To add a bound
    Add a line in ``bounds.py``, which refers to samples of scenarios.

To get a verdict in five minutes
    Use ``--quick``, which measures what the bounds refer to; ``verdict.py`` explains when it fails.

To find what got slower
    Use ``--json OLD`` before a change, and ``--compare OLD`` after it, both with or without
    ``--quick``; ``compare.py`` explains what is marked.

To compare Pythons
    Use ``--python 3.11 3.13``; ``pythons.py`` explains what they run in.

To draw plots
    Use ``--plot DIR``; with ``--from FILE`` it draws a run saved by ``--json FILE``, without a
    measurement.

To write tables
    ``--rst FILE`` writes tables into a page; ``rst.py`` explains where.  ``make figures`` draws the
    plots and writes the tables of the README and the docs.  ``--from FILE FILE`` takes the table of
    the Pythons from several runs.
"""
