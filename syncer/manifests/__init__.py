"""Objects that the virtual cluster is given from files, beside what its tenant makes there."""
