"""A fleet in virtual time: models and simulations of the script and of the lease of a session."""
