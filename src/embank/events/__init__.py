"""Everything that happens is one typed, frozen, past-tense event on a bounded stream."""
