"""What every command shares: options, console output, signals, exit codes."""
