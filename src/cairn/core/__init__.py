"""What every layer may use: errors, ids, clock, tasks, log. Knows nothing of clouds."""
