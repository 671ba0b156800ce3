"""What a cycle of a pool costs, as a multiple of the least that any pool could cost.

``python -m bench`` compares contenders side by side in one run: this library on both of its cores,
other pools, and the floor.  Each has a process of its own; they take turns, round by round, and in
each round a cycle is timed next to the floor, in the same process.  What is reported is the median
of the rounds' ratios: times drift with the machine, ratios hardly do.  ``timing.py`` says what else
was done so that only the thing itself is measured.

To add a contender
    A class in a file of ``contenders/`` (``contender.py`` says what it has to do, ``queue.py`` is a
    short one), and a line of ``contenders/__init__.py``.

To add a scenario
    A :class:`~bench.scenario.Scenario` in a file of ``scenarios/`` (``public.py`` has short ones),
    and a line of ``scenarios/__init__.py``.  It says by name which methods it ``needs`` of a
    contender; whoever has them takes part.  It is set up in the contender's process at its first
    round, for all its points side by side, and torn down after its last.

To add a bound
    A line of ``bounds.py``, over the samples of scenarios.

To see whether something got slower
    ``--json OLD`` before, ``--compare OLD`` after; ``compare.py`` says what is marked, and why not
    more.

To draw
    ``--plot DIR``; with ``--from FILE`` a run that was saved by ``--json FILE``, as often as it
    takes, and nothing is measured.

To write of it
    ``--rst FILE`` puts tables into a page; ``rst.py`` says where.  ``make figures`` draws and
    writes what README and docs show.
"""
