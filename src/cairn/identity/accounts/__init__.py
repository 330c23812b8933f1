"""How safe an account is: passwords and their hashes, lockout, expiry, more than one factor."""
