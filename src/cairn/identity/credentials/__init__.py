"""Secrets that users keep with us, sealed: EC2 keys, TOTP, anything."""
