"""What an output holds, and who may write to it: ledger, lease, replaced rows, leftovers. Knows no model and no Ray."""
