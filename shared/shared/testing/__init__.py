"""What only tests use: the fault harness that every package joins, its table, and the command lines of the READMEs."""
