"""The network engine of a host: OVN, and a fake that passes the same contract."""
