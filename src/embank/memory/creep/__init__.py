"""Memory that creeps up over operations: seen, told, and traced to its culprit."""
