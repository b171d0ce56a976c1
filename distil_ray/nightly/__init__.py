"""Runs by the calendar: one a night, judged beside those before it, told to a webhook."""
