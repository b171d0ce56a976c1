"""What the job costs, and how its recogniser does beside others: one program to measure both, on any machine."""
