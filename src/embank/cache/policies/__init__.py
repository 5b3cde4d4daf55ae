"""Which entries go when there is no more room: one file a policy, behind one protocol."""
