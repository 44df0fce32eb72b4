"""Training that knows no victim: random streams, memberships, groups of networks, hooks."""
