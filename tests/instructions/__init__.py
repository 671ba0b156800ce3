"""How many instructions a cycle takes: counted by callgrind, and held against a reference.

A count is what a timing on a shared machine is not: the same each time, to some parts in ten
thousand.  It depends on the build of the interpreter (which runs most of it), on aiohttp, yarl and
multidict, and on the compiler; the same source takes half as much again on another CPython.  So
``reference-3.11.json`` and its like, one for each CPython, have with their numbers what they were
made on and which source they are of:

* Where all of that is the same, its numbers are what counts are held against.
* Elsewhere the reference's source, which git keeps, is built and counted as well, here.
* Where that cannot be had either, no cycle may take more than twice the numbers: it is coarse, and
  an interpreter that doubles all by itself would fail it.

So a newer interpreter alone is no failure where there is git's history, and more work is one.
"""
