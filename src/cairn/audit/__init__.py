"""The audit trail: who did what to which thing, from where, with which outcome."""
