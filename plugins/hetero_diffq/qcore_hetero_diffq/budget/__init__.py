"""Byte budgets: what is counted, what is chosen under them, and what training pays for going over."""
