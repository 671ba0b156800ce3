"""A pool under load, cancellation and faults for as long as one likes: ``make soak``.

``python -m tests.soak --seconds N`` gives each loop a process of its own, and that one starts two
servers, one plain and one with TLS.  Thousands of callers share a few sessions of differing
settings, each with ports of its own at both servers, while servers, sockets, sessions and callers
are ended at random.  Each server counts its sockets itself and keeps, where no kill can take it
away, by how much a limit was ever exceeded.  At the end all is calmed down, and whatever was not
given back is found.

``ledger`` is what the processes share; ``server`` and ``fleet`` are the servers and who restarts
them; ``subject`` the sessions and what is known of them; ``calls`` what callers do, ``chaos`` what
is done to them; ``verdict`` what must hold; ``table`` how it is shown.
"""
