"""What people see of runs: one page of HTML each, made from what the runs have stored."""
